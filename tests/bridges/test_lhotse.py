"""lhotse reads our cuts and our data folder of Kaldi, and we read what it writes."""

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import kaldiio
import lhotse
import pytest
import soundfile
from lhotse.kaldi import load_kaldi_data_dir

from emodistill.corpora import (
    TABLE_READERS,
    Corpus,
    TableOptions,
    Utterance,
    drop_bad_audio,
    read_own_table,
)
from emodistill.corpora.writers import write_corpus

DEMO_CALL = files("emodistill") / "demo" / "call.ogg"


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """Two parts of the demo call, in a file whose name has spaces and other letters."""
    samples, rate_hz = soundfile.read(str(DEMO_CALL), dtype="int16")
    path = tmp_path / "zażółć gęślą.wav"
    soundfile.write(path, samples[: 4 * rate_hz], rate_hz)
    items = (
        Utterance("a1", "anna", "angry", path, 0.25, 1.0, gender="female", language="pl", corpus="calls",
                  transcript="Nie, dziękuję!", transcript_source="gold", arousal=4.0, scale=(1.0, 5.0)),
        Utterance("b2", "jan", "sad", path, 1.5, 3.0, gender="male", corpus="calls",
                  transcript="Hm.", transcript_source="gold",
                  votes='{"sad": 2, "angry": 1}'),
    )  # fmt: skip
    return drop_bad_audio(Corpus("calls", items))[0]


def prepared(name: str, source: Path, options: TableOptions | None = None) -> list[Utterance]:
    options = options or TableOptions()
    table = TABLE_READERS[name].read(source, options)
    corpus = read_own_table(table, options.columns, {}, "all", None, lambda text: None)
    return list(drop_bad_audio(corpus, measure=True)[0])


def test_lhotse_reads_our_cuts(corpus: Corpus, tmp_path: Path) -> None:
    write_corpus(corpus, "lhotse", tmp_path / "out")
    cuts = lhotse.CutSet.from_file(tmp_path / "out" / "cuts.jsonl.gz").to_eager()
    first, second = cuts
    lhotse.validate(cuts)
    (supervision,) = first.supervisions
    assert (first.id, first.start, first.duration) == ("a1", 0.25, 0.75)
    assert (supervision.speaker, supervision.text, supervision.gender) == ("anna", "Nie, dziękuję!", "female")
    assert supervision.custom["emotion"] == "angry"
    assert second.supervisions[0].custom["votes"] == {"sad": 2, "angry": 1}
    channels = soundfile.info(str(corpus.utterances[0].path)).channels
    assert first.load_audio().shape == (channels, round(0.75 * first.sampling_rate))


def test_cuts_that_lhotse_writes_are_prepared(corpus: Corpus, tmp_path: Path) -> None:
    path = corpus.utterances[0].path
    recording = lhotse.Recording.from_file(path, recording_id="call")
    supervisions = [
        lhotse.SupervisionSegment(
            item.id, "call", item.start_s, item.end_s - item.start_s, channel=recording.channel_ids,
            text=item.transcript, speaker=item.speaker, gender=item.gender, language=item.language,
            custom={"feeling": item.emotion},
        )
        for item in corpus
    ]  # fmt: skip
    cuts = lhotse.CutSet.from_manifests(
        lhotse.RecordingSet.from_recordings([recording]), lhotse.SupervisionSet.from_segments(supervisions)
    )
    options = TableOptions({"emotion": "feeling"}, audio_out=tmp_path / "parts")
    for number, some in enumerate((cuts, cuts.trim_to_supervisions(keep_overlapping=False))):
        some.to_file(tmp_path / f"cuts{number}.jsonl.gz")
        found = prepared("lhotse", tmp_path / f"cuts{number}.jsonl.gz", options)
        assert [(u.id, u.speaker, u.emotion, u.gender, u.transcript) for u in found] == [
            (u.id, u.speaker, u.emotion, u.gender, u.transcript) for u in corpus
        ]
        assert [u.duration_s for u in found] == pytest.approx([0.75, 1.5])


def test_lhotse_and_kaldiio_read_our_data_folder(corpus: Corpus, tmp_path: Path) -> None:
    write_corpus(corpus, "kaldi", tmp_path / "out")
    rate_hz = soundfile.info(str(corpus.utterances[0].path)).samplerate
    recordings, supervisions, _ = load_kaldi_data_dir(tmp_path / "out", sampling_rate=rate_hz)
    found = {item.id: (item.speaker, item.text or "", item.start, item.duration) for item in supervisions}
    assert found == {"a1": ("anna", "Nie, dziękuję!", 0.25, 0.75), "b2": ("jan", "Hm.", 1.5, 1.5)}
    assert len(recordings) == 1
    samples = kaldiio.load_scp(str(tmp_path / "out" / "wav.scp"), segments=str(tmp_path / "out" / "segments"))
    read_rate_hz, segment = samples["a1"]
    assert (read_rate_hz, len(segment)) == (rate_hz, round(0.75 * rate_hz))


def test_a_data_folder_that_lhotse_writes_is_prepared(corpus: Corpus, tmp_path: Path) -> None:
    write_corpus(corpus, "kaldi", tmp_path / "out")
    rate_hz = soundfile.info(str(corpus.utterances[0].path)).samplerate
    recordings, supervisions, _ = load_kaldi_data_dir(tmp_path / "out", sampling_rate=rate_hz)
    lhotse.kaldi.export_to_kaldi(recordings, supervisions, tmp_path / "theirs")
    (tmp_path / "theirs" / "utt2emo").write_text("a1 angry\nb2 sad\n")
    found = prepared("kaldi", tmp_path / "theirs")
    assert [(u.speaker, u.emotion, u.start_s, u.path) for u in found] == [
        (u.speaker, u.emotion, u.start_s, u.path) for u in corpus
    ]
    assert [replace(u, corpus="calls") for u in prepared("kaldi", tmp_path / "out")] == list(corpus)
