"""What `corpus audit` shows: counts of emotions, levels of recordings, warnings; as tables and as JSON."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import factories as make
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from emodistill.audio.waveform import from_samples
from emodistill.config import ProtocolConfig
from emodistill.corpora import Corpus, Utterance, read_corpus, read_manifest
from emodistill.labels import EMOTIONS
from emodistill.protocol import audit_protocol, build_protocol
from emodistill.protocol.audit_tables import audit_report, show_audit
from emodistill.protocol.levels import (
    CLIPPED_RUN,
    Level,
    level_warnings,
    levels_by_corpus,
    measure_level,
)

SINE = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000).astype(np.float32)  # one second at full scale


def level_of(samples: np.ndarray) -> Level:
    frames = samples.reshape(len(samples), -1).astype(np.float32)
    return measure_level(from_samples(frames, 16_000), frames)


# --- levels --------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.floats(0.01, 0.6), st.floats(-0.3, 0.3))
def test_levels_of_a_sine_with_an_offset(gain: float, offset: float) -> None:
    level = level_of(gain * SINE + offset)
    assert level.rms_dbfs == pytest.approx(20 * np.log10(gain / np.sqrt(2)), abs=0.01)
    assert level.dc == pytest.approx(abs(offset) / (gain / np.sqrt(2)), abs=1e-3)
    assert not level.is_clipped


def test_clipped_recordings_have_several_samples_in_a_row_at_full_scale() -> None:
    assert level_of(np.clip(1.5 * SINE, -1, 1)).is_clipped
    assert not level_of(0.9 * np.clip(1.5 * SINE, -1, 1)).is_clipped, "turned down after clipping"
    peak = 0.5 * SINE
    peak[100 : 100 + CLIPPED_RUN - 1] = 1
    assert not level_of(peak).is_clipped
    peak[100 : 100 + CLIPPED_RUN] = -1
    assert level_of(peak).is_clipped
    stereo = np.stack([0.1 * SINE, np.clip(2 * SINE, -1, 1)], axis=1)
    assert level_of(stereo).is_clipped
    assert not level_of(np.ones(CLIPPED_RUN - 1)).is_clipped


def test_silence_has_a_level_that_is_finite() -> None:
    level = level_of(np.zeros(1000))
    assert (level.rms_dbfs, level.dc) == (-120, 0)


def pool(**levels: list[Level]) -> tuple[Corpus, dict[str, Level]]:
    """A pool with these levels of the recordings of each corpus."""
    named = {f"{name}/{i}": level for name, items in levels.items() for i, level in enumerate(items)}
    utterances = tuple(Utterance(key, key, "sad", corpus=key.split("/")[0]) for key in named)
    return Corpus("pool", utterances), named


def test_levels_are_summarised_by_corpus() -> None:
    quiet = [Level(-40 + i / 10, 0.01, False) for i in range(101)]
    corpus, levels = pool(a=quiet, b=[Level(-20, 0.5, True), Level(-20, 0.0, False), Level(-99, 0, False)])
    found = levels_by_corpus(corpus, levels)
    a, b = found["a"], found["b"]
    assert (a.num_recordings, a.rms_dbfs_median, a.rms_dbfs_min) == (101, -35, -40)
    assert (a.rms_dbfs_5, a.rms_dbfs_95) == pytest.approx((-39.5, -30.5))
    assert (b.dc_offsets, b.clipped, b.silent) == (("b/0",), ("b/0",), ("b/2",))
    assert level_warnings(found) == (
        "1 of 3 recordings of b (33.3 %) have a DC offset above 10 % of their RMS level ('b/0')",
        "1 of 3 recordings of b (33.3 %) are clipped: 3 or more samples in a row at full scale ('b/0')",
        "1 of 3 recordings of b (33.3 %) are silent: below -90 dBFS ('b/2')",
        "a is 15 dB quieter than b: a model can tell them apart by level, which augment.gain_db varies",
    )
    assert level_warnings({}) == ()


def test_recordings_that_cannot_be_read_have_no_level(tmp_path: Path) -> None:
    corpus = read_manifest(make.corpus_folder(tmp_path))
    (tmp_path / "broken.wav").write_text("nothing")
    first = replace(corpus.utterances[0], path=tmp_path / "broken.wav")
    broken = replace(corpus, utterances=(first, *corpus.utterances[1:]))
    found = audit_protocol(broken, build_protocol(broken, ProtocolConfig(folds=3)))
    assert set(found.levels) == {utterance.id for utterance in corpus.utterances[1:]}


def test_real_recordings_with_dc_offsets_are_found() -> None:
    root = make.DATA / "corpora/urdu"
    if not root.is_dir():
        pytest.skip(f"no '{root}'; set EMODISTILL_DATA")
    corpus = read_corpus("urdu", root)
    protocol = build_protocol(corpus, ProtocolConfig())
    levels = levels_by_corpus(corpus, audit_protocol(corpus, protocol, workers=2).levels)
    for name in levels["urdu"].dc_offsets[:3]:
        (path,) = [utterance.path for utterance in corpus if utterance.id == name]
        samples, _ = soundfile.read(path)
        assert abs(samples.mean()) > 0.1 * samples.std()
    assert len(levels["urdu"].dc_offsets) > 100
    report = audit_report(corpus, protocol, audit_protocol(corpus, protocol, workers=2), ProtocolConfig())
    (line,) = [line for line in shown(report, 80).splitlines() if line.split()[:2] == ["urdu", "400"]]
    assert f"{len(levels['urdu'].dc_offsets)} (38 %)" in line


# --- report --------------------------------------------------------------------------------------


def report_of(corpus: Corpus, **config: Any) -> dict[str, Any]:
    settings = ProtocolConfig(**config)
    protocol = build_protocol(corpus, settings)
    return audit_report(corpus, protocol, audit_protocol(corpus, protocol), settings)


def shown(report: dict[str, Any], width: int) -> str:
    out = io.StringIO()
    show_audit(report, "table", Console(file=out, width=width))
    return out.getvalue()


def labelled(num_emotions: int, speakers: int = 6) -> Corpus:
    """A corpus without audio, where each speaker has a hundred utterances of each emotion."""
    return Corpus(
        "labelled",
        tuple(
            Utterance(f"{speaker}-{emotion}-{take}", str(speaker), emotion)
            for speaker in range(speakers)
            for emotion in EMOTIONS[:num_emotions]
            for take in range(100)
        ),
    )


@pytest.mark.parametrize("num_emotions", [2, 8, 13])
@pytest.mark.parametrize("width", [80, 120, 200])
def test_tables_fit_and_name_every_emotion(num_emotions: int, width: int) -> None:
    text = shown(report_of(labelled(num_emotions), folds=3), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text, "nothing is cut off"
    for emotion in EMOTIONS[:num_emotions]:
        assert f" {emotion} " in text
    assert text.count("utterances by emotion") == (2 if (num_emotions, width) == (13, 80) else 1)


def test_many_folds_are_shown_as_a_range() -> None:
    corpus = labelled(2, speakers=20)
    corpus = replace(corpus, utterances=corpus.utterances[:-50])
    text = shown(report_of(corpus, kind="leave-one-speaker-out"), 80)
    (cells,) = [line.split() for line in text.splitlines() if "50–100" in line and "test" in line]
    assert cells == ["test", "100", "50–100", "150–200"]
    assert "fewest to most over 20 folds" in text


def test_absent_emotions_are_zero_in_the_table_and_warned_of() -> None:
    corpus = labelled(3)
    kept = tuple(u for u in corpus if u.speaker == "0" or u.emotion != EMOTIONS[2])
    report = report_of(replace(corpus, utterances=kept), kind="leave-one-speaker-out")
    first = report["folds"][0]
    assert first["emotions"]["train"] == {EMOTIONS[0]: 400, EMOTIONS[1]: 400, EMOTIONS[2]: 0}
    text = " ".join(shown(report, 80).split())
    assert f"warning: no '{EMOTIONS[2]}' in train of 2 of 6 folds (0, 5): a model that trains" in text


def test_the_audit_repeats_the_note_on_a_list() -> None:
    corpus = Corpus(
        "ravdess", tuple(Utterance(f"{a}-{e}", str(a), e) for a in range(1, 25) for e in EMOTIONS[:2])
    )
    report = report_of(corpus, kind="fixed", fixed="ravdess-2606.03359")
    assert "note: The authors of these folds chose their models on test scores" in shown(report, 200)


# --- command -------------------------------------------------------------------------------------


def test_the_command_prints_tables_or_json(emodistill: Any, tmp_path: Path) -> None:
    path = make.corpus_folder(tmp_path / "corpus", emotions=("angry", "sad"), each=2)
    arguments = ("corpus", "audit", "demo", "--set", f"corpus.manifest={path}", "--set", "protocol.folds=3")
    done = emodistill(*arguments)
    assert done.code == 0
    assert "no leak" in done.out
    assert "levels of recordings" in done.out
    assert "warning: fewer than 10 training utterances of 'angry'" in done.out
    done = emodistill(*arguments, "--format", "json")
    report = json.loads(done.out)
    assert done.code == 0
    (levels,) = report["levels"].values()
    assert set(levels) >= {"rms_dbfs_median", "dc_offsets", "clipped", "silent"}
    for fold in report["folds"]:
        assert sum(fold["emotions"]["train"].values()) == fold["train"]
    assert any("fewer than 10 training" in warning for warning in report["warnings"])
