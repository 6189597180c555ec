"""The command line: every verb, every format, exit codes, resuming, and clean standard output."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import factories as make
import factories_corpora as trees
import numpy as np
import pytest
import soundfile
from typer.main import get_command
from typer.testing import CliRunner

from emodistill import __version__, cli
from emodistill.corpora import audio_duration_s, read_manifest
from emodistill.inference.model_card import BUNDLED

Call = make.CommandLine


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Three recordings, one of them in a subfolder, a text file named .wav, and notes."""
    folder = tmp_path / "clips"
    (folder / "below").mkdir(parents=True)
    soundfile.write(folder / "a.wav", make.speech(0.6, 120, seed=1), make.RATE)
    soundfile.write(folder / "below/c.flac", make.speech(0.7, 200, seed=2), make.RATE)
    soundfile.write(folder / "d.wav", np.zeros(8000), make.RATE)
    (folder / "b.wav").write_text("this is no audio")
    (folder / "notes.txt").write_text("nor is this meant to be")
    return folder


GROUPS = [["corpus"], ["scale"]]  # of verbs
COMMANDS = get_command(cli.app).commands  # type: ignore[attr-defined]
VERBS = sorted(
    [[name] for name in COMMANDS if [name] not in GROUPS]
    + [[group, name] for (group,) in GROUPS for name in COMMANDS[group].commands]
)


@pytest.mark.parametrize("verb", [[], *GROUPS, *VERBS], ids=" ".join)
def test_every_verb_and_option_has_a_help_text(verb: list[str]) -> None:
    result = CliRunner().invoke(cli.app, [*verb, "--help"])
    assert result.exit_code == 0
    assert f"Usage: root {' '.join(verb)}".strip() in result.output
    assert CliRunner().invoke(cli.app, [*verb, "-h"]).output == result.output
    if verb and verb not in GROUPS:
        command = get_command(cli.app)
        for part in verb:
            command = command.commands[part]  # type: ignore[attr-defined]
        assert command.help
        assert all(getattr(item, "help", None) for item in command.params), "every option has its help"


def test_version_is_printed(emodistill: Call) -> None:
    result = emodistill("--version")
    assert (result.code, result.out) == (0, f"emodistill {__version__}\n")


def test_python_m_emodistill_runs_the_command_line() -> None:
    command = [sys.executable, "-m", "emodistill", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"emodistill {__version__}\n"


def test_failures_are_listed_at_the_end(
    emodistill: Call, exported: Path, clips: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "some are empty"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.wav").write_bytes(b"" if number != 1 else (clips / "a.wav").read_bytes())
    result = emodistill("predict", folder, "-m", exported, "-f", "jsonl")
    assert result.code == 1
    assert len(result.out.splitlines()) == 3
    first, second, last = result.err.splitlines()
    assert first.startswith(f"failed: {folder / '0.wav'}: cannot be decoded")
    assert second.startswith(f"failed: {folder / '2.wav'}: cannot be decoded")
    assert last == "2 of 3 failed, the rest is done"


def test_verbs_are_complete() -> None:
    assert {" ".join(verb) for verb in VERBS} == {
        "predict", "timeline", "listen", "mcp", "serve", "enrol", "embed", "models", "train", "crossval",
        "ablate", "tune", "export", "fetch", "demo", "evaluate", "scores", "compare", "report", "cite",
        "stress", "cache", "corpus prepare", "corpus audit", "corpus stats", "corpus write", "scale predict",
        "scale embed",
    }  # fmt: skip


# --- predict -------------------------------------------------------------------------------------


def test_predict_json(emodistill: Call, exported: Path, clips: Path) -> None:
    result = emodistill("predict", clips, clips / "a.wav", "-m", exported, "--format", "json", "--threads", 1)
    assert result.code == 1, "one input could not be read"
    rows = json.loads(result.out)
    order = [clips / name for name in ("a.wav", "b.wav", "below/c.flac", "d.wav", "a.wav")]
    assert [row["path"] for row in rows] == [str(path) for path in order]
    keys = ["path", "emotion", "confidence", "probabilities", "abstained", "reason", "error"]
    assert all(list(row)[: len(keys)] == keys for row in rows)
    optional = ["surety", "dimensions", "dimensions_from"]
    assert all(list(row)[len(keys) :] == (optional if row["emotion"] else []) for row in rows)
    good, bad, _, silent, again = rows
    assert good == again
    assert good["probabilities"][good["emotion"]] == good["confidence"]
    assert (good["abstained"], good["reason"], good["error"]) == (False, None, None)
    assert "cannot be decoded" in bad["error"]
    assert (bad["emotion"], bad["confidence"]) == (None, None)
    assert (silent["emotion"], silent["reason"], silent["error"]) == (None, "silence", None)
    assert "cannot be decoded" in result.err


def test_predict_exits_with_0_if_all_inputs_are_read(emodistill: Call, exported: Path, clips: Path) -> None:
    result = emodistill("predict", clips / "a.wav", clips / "d.wav", "-m", exported, "-f", "json")
    assert (result.code, result.err) == (0, "")
    assert len(json.loads(result.out)) == 2


def test_all_prediction_formats_hold_the_same_values(emodistill: Call, exported: Path, clips: Path) -> None:
    def output(format: str) -> str:
        result = emodistill("predict", clips, "-m", exported, "-f", format)
        assert result.code == 1
        return result.out

    expected = json.loads(output("json"))
    assert [json.loads(line) for line in output("jsonl").splitlines()] == expected
    table = list(csv.DictReader(io.StringIO(output("csv"))))
    assert list(table[0]) == [
        "path", "emotion", "confidence", "abstained", "reason", "error", "p_angry", "p_sad",
        "surety", "arousal", "valence", "dimensions_from", "channel", "dominance", "intensity",
    ]  # fmt: skip
    for row, other in zip(table, expected, strict=True):
        assert row["path"] == other["path"]
        for name in ("emotion", "reason", "error"):
            assert row[name] == (other[name] or "")
        if other["emotion"]:
            assert float(row["confidence"]) == other["confidence"]
            assert float(row["p_sad"]) == other["probabilities"]["sad"]
            assert float(row["arousal"]) == other["dimensions"]["arousal"]
            assert row["surety"] == other["surety"]
    table_for_reading = output("table")
    assert "silence" in table_for_reading
    assert expected[0]["emotion"] in table_for_reading


def test_predict_restricts_emotions_and_abstains(emodistill: Call, exported: Path, clips: Path) -> None:
    one = emodistill("predict", clips / "a.wav", "-m", exported, "-f", "json", "--emotions", "sad")
    assert json.loads(one.out)[0]["probabilities"] == {"sad": 1.0}
    unsure = emodistill("predict", clips / "a.wav", "-m", exported, "-f", "json", "--min-confidence", 1.0)
    assert json.loads(unsure.out)[0]["reason"] == "low_confidence"
    assert unsure.code == 0


def test_a_file_name_that_is_not_utf8_is_kept(emodistill: Call, exported: Path, tmp_path: Path) -> None:
    named = tmp_path / "in" / os.fsdecode(b"caf\xe9.wav")
    named.parent.mkdir()
    try:
        named.write_bytes(b"no audio")
    except OSError:  # on macOS
        pytest.skip("this file system accepts only UTF-8 names")
    rows, folder = tmp_path / "rows.jsonl", tmp_path / "out"
    command = ["predict", named.parent, "-m", exported, "--format"]
    for format in ("json", "jsonl", "csv", "table"):
        assert emodistill(*command, format).code == 1
    assert json.loads(emodistill(*command, "json").out)[0]["path"] == str(named)
    soundfile.write(tmp_path / "a.wav", make.speech(0.6, 120, seed=1), make.RATE)
    (tmp_path / "a.wav").replace(named)
    for added in (1, 0):
        result = emodistill(*command, "jsonl", "-o", rows)
        assert (result.code, len(rows.read_text().splitlines())) == (0, 1), added
    assert json.loads(rows.read_text())["path"] == str(named)
    assert emodistill("timeline", named.parent, "-m", exported, "--format", "json", "-o", folder).code == 0
    assert json.loads(next(folder.iterdir()).read_text())[0]["path"] == str(named)


def test_predict_writes_teachers_only_on_request(emodistill: Call, exported: Path, clips: Path) -> None:
    without, with_teachers = (
        json.loads(
            emodistill("predict", clips / "a.wav", clips / "d.wav", "-m", exported, "-f", "json", *more).out
        )
        for more in ([], ["--teachers"])
    )
    assert "teachers" not in without[0]
    assert set(with_teachers[0].pop("teachers")) == {"prosodic", "linguistic"}
    assert with_teachers == without, "a silent file has no teachers' probabilities"


@pytest.mark.parametrize(("format", "coverage"), [("json", 0.5), ("csv", 0.25), ("table", 0.75)])
def test_coverage_is_the_share_of_the_files_that_get_an_emotion(
    emodistill: Call, exported: Path, manifest: Path, format: str, coverage: float
) -> None:
    out = emodistill("predict", manifest.parent, "-m", exported, "-f", format, "--coverage", coverage).out
    assert out.count("low_confidence") == 36 - round(36 * coverage)


def test_a_share_of_dev_1_answers_every_file_and_0_only_the_surest(
    emodistill: Call, exported: Path, manifest: Path
) -> None:
    """The thresholds come from the coverage curve that the export wrote into the card."""
    from emodistill.inference.model_card import read_card

    card = read_card(exported)
    assert card.coverage[0].coverage == 1
    folder = manifest.parent
    for share, least in ((1.0, 0.0), (0.0, 1.0)):
        args = ["-m", exported, "-f", "json", "--min-confidence", f"dev:{share}"]
        rows = json.loads(emodistill("predict", folder, *args).out)
        assert len(rows) == 36
        assert all((row["reason"] == "low_confidence") == (row["confidence"] < least) for row in rows)


def test_the_number_of_jobs_does_not_change_the_rows(
    emodistill: Call, exported: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMODISTILL_MODEL", str(exported))
    one, three = (
        emodistill("predict", manifest.parent, "-f", "jsonl", "--threads", 1, "--jobs", jobs)
        for jobs in (1, 3)
    )
    assert (one.code, one.err) == (0, "")
    assert len(one.out.splitlines()) == 36
    assert three.out == one.out


def test_predict_writes_to_a_file(emodistill: Call, exported: Path, clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    result = emodistill("predict", clips, "-m", exported, "-f", "csv", "-o", out)
    assert (result.code, result.out) == (1, "")
    assert len(make.read_rows(out)) == 4


def test_the_suffix_of_the_output_chooses_the_format(
    emodistill: Call, exported: Path, clips: Path, tmp_path: Path
) -> None:
    for name in ("rows.json", "rows.jsonl", "rows.csv"):
        by_suffix, named = tmp_path / name, tmp_path / "named"
        emodistill("predict", clips, "-m", exported, "-o", by_suffix)
        emodistill("predict", clips, "-m", exported, "-f", by_suffix.suffix[1:], "-o", named)
        assert by_suffix.read_text() == named.read_text()
        named.unlink()
    emodistill("predict", clips, "-m", exported, "-o", tmp_path / "rows.txt")
    assert "│" in (tmp_path / "rows.txt").read_text()


def test_the_last_message_if_every_input_fails(emodistill: Call, exported: Path, tmp_path: Path) -> None:
    result = emodistill("predict", tmp_path / "a.wav", tmp_path / "b.wav", "-m", exported)
    assert result.code == 1
    assert "2 of 2 failed, there are no results" in result.err


def test_predict_resumes_a_jsonl(emodistill: Call, exported: Path, clips: Path, tmp_path: Path) -> None:
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    emodistill("predict", clips, "-m", exported, "-f", "jsonl", "-o", whole)
    lines = whole.read_text().splitlines(keepends=True)
    assert len(lines) == 4
    marked = lines[0].replace(
        '"abstained": false', '"abstained": false '
    )  # a changed row that stays was not written again
    part.write_text(marked + lines[1] + lines[2][:30])  # killed in the middle of the third row
    result = emodistill("predict", clips, "-m", exported, "-f", "jsonl", "-o", part)
    assert part.read_text() == marked + "".join(lines[1:])
    assert result.code == 1, "a row that failed is tried again, and fails again"
    assert "1 rows were there already, 3 added" in result.err
    again = emodistill("predict", clips, "-m", exported, "-f", "jsonl", "-o", part)
    assert (again.code, "3 rows were there already, 1 added" in again.err) == (1, True)


def test_a_jsonl_is_not_continued_with_other_settings(
    emodistill: Call, exported: Path, clips: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    emodistill("predict", clips, "-m", exported, "-f", "jsonl", "-o", out)
    before = out.read_bytes()
    result = emodistill("predict", clips, "-m", exported, "-f", "jsonl", "-o", out, "--min-confidence", 0.9)
    assert (result.code, out.read_bytes()) == (2, before)
    assert "was begun with another min_confidence: name another output" in result.err
    result = emodistill("predict", clips, "-m", exported, "-f", "jsonl", "-o", out, "--teachers")
    assert (result.code, out.read_bytes()) == (2, before)
    assert "was begun with another teachers: name another output" in result.err
    out.unlink()  # a new file may have other settings
    assert (
        emodistill("predict", clips, "-m", exported, "-f", "jsonl", "-o", out, "--min-confidence", 0.9).code
        == 1
    )


def test_an_existing_output_stays_until_the_new_one_is_complete(
    emodistill: Call, exported: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.csv"
    out.write_text("kept")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("emodistill.inference.recognizer.Recognizer._predict_one", killed)
        assert emodistill("predict", clips, "-m", exported, "-f", "csv", "-o", out).code == 130
    assert out.read_text() == "kept"
    emodistill("predict", clips, "-m", exported, "-f", "csv", "-o", out)
    assert len(make.read_rows(out)) == 4
    assert not list(tmp_path.glob("*partial*"))


def test_failed_rows_of_a_jsonl_are_tried_again(
    emodistill: Call, exported: Path, clips: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    emodistill("predict", clips, tmp_path / "gone.wav", "-m", exported, "-f", "jsonl", "-o", out)
    before = out.read_text().splitlines()
    soundfile.write(clips / "b.wav", make.speech(0.6, seed=7), make.RATE)
    result = emodistill("predict", clips, "-m", exported, "-f", "jsonl", "-o", out)
    assert (result.code, result.err) == (0, f"4 rows were there already, 1 added to {out}\n")
    after = out.read_text().splitlines()
    assert after[:-1] == [before[0], *before[2:]], "gone.wav was not named, so it keeps its row"
    assert json.loads(after[-1])["path"] == str(clips / "b.wav")
    assert json.loads(after[-1])["emotion"] is not None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("this is no row", "line 2 is no prediction"),
        ('{"emotion": "sad", "error": null, "probabilities": {}}', "line 2 is no prediction"),
        ("[1, 2]", "line 2 is no prediction"),
        (b"\xff", "line 2 is no prediction"),
        ('{"path": "x", "error": null, "probabilities": {"happy": 0.5, "sad": 0.5}}',
         r"line 2 has the emotions \['happy', 'sad'\], but the model has \['angry', 'sad'\]: name another "
         "output"),
    ],
)  # fmt: skip
def test_a_jsonl_with_other_lines_is_refused_and_unchanged(
    emodistill: Call, exported: Path, clips: Path, tmp_path: Path, line: str | bytes, message: str
) -> None:
    out = tmp_path / "out.jsonl"
    emodistill("predict", clips / "a.wav", "-m", exported, "-f", "jsonl", "-o", out)
    text = out.read_bytes() + (line if isinstance(line, bytes) else line.encode()) + b"\n"
    out.write_bytes(text)
    result = emodistill("predict", clips, "-m", exported, "-f", "jsonl", "-o", out)
    assert (result.code, result.out) == (2, "")
    assert re.search(message, result.err)
    assert out.read_bytes() == text


def test_predict_creates_the_folder_of_its_output(
    emodistill: Call, exported: Path, clips: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new/folder/out.csv"
    assert emodistill("predict", clips / "a.wav", "-m", exported, "-f", "csv", "-o", out).code == 0
    assert len(make.read_rows(out)) == 1


def test_usage_errors_exit_with_2(emodistill: Call, exported: Path, clips: Path, tmp_path: Path) -> None:
    for args, message in (
        (["predict", clips, "-m", tmp_path], "is not an exported model: it has no card.json"),
        (["predict", clips, "-m", exported, "--emotions", "sadd"], "bad emotion 'sadd'.*did you mean 'sad'"),
        (["predict", clips, "-m", exported, "-f", "xml"], "xml"),
        (
            ["predict", clips, "-m", exported, "--teachers"],
            "the format table cannot hold the teachers' probabilities: add --format json or jsonl",
        ),
        (
            ["predict", clips, "-m", exported, "-f", "jsonl", "--coverage", 0.5],
            "elsewhere give min_confidence",
        ),
        (["timeline", clips, "-m", exported, "--coverage", 0.5], "elsewhere give min_confidence, .* dev:0.8"),
        (["listen", "-m", exported, "--coverage", 0.5], "elsewhere give min_confidence"),
        (["predict", clips, "-m", exported, "--min-confidence", "dev:8"], "bad min_confidence dev:8"),
        (["predict", clips, "-m", exported, "--emotions", ","], "no emotions: expected some of"),
        (["predict", clips, "-m", "no/such"], "'no/such' is no folder here, and could not be downloaded"),
        (["crossval", "ravdes-whisper"], "bad recipe 'ravdes-whisper'.*did you mean 'ravdess-whisper'"),
        (["crossval", "ravdess-whisper", "--set", "student.optim.lrr=1"], "bad key 'lrr'.*did you mean 'lr'"),
        (["train", "ravdess-whisper", "--set", "seed=x"], "seed = 'x'"),
        (["export", tmp_path, "-o", tmp_path / "x"], "is not a run folder"),
        (["corpus", "prepare", "ravdes", tmp_path, "-o", tmp_path / "x.csv"], "did you mean 'ravdess'"),
        (["corpus", "stats", tmp_path / "no.csv"], "no manifest"),
        (["nonsense"], "nonsense"),
    ):
        result = emodistill(*args)
        assert (result.code, result.out) == (2, ""), args
        flat = " ".join(result.err.split())
        assert re.search(message, flat), (message, flat)
        assert "Traceback" not in result.err


def test_an_empty_folder_gives_a_warning_and_exit_code_1(
    emodistill: Call, exported: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    result = emodistill("predict", tmp_path / "empty", "-m", exported, "-f", "json")
    assert json.loads(result.out) == []
    assert "no audio files below" in result.err
    assert result.code == 1


def test_an_error_of_the_file_system_is_one_line(
    emodistill: Call, exported: Path, clips: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path, tmp_path / "file/out.csv"):  # a folder; a folder that cannot be made
        result = emodistill("predict", clips, "-m", exported, "-f", "csv", "-o", out)
        assert (result.code, result.out) == (2, "")
        assert re.fullmatch(rf"error: .*{re.escape(str(tmp_path))}.*\n", result.err)


# --- corpora, training ---------------------------------------------------------------------------


def test_corpus_prepare_counts_what_it_leaves_out(emodistill: Call, tmp_path: Path) -> None:
    trees.iemocap(tmp_path / "tree")
    for number, path in enumerate(sorted((tmp_path / "tree").rglob("*.wav"))):
        soundfile.write(path, make.speech(0.4, seed=number), make.RATE)
    out = tmp_path / "utterances.csv"
    result = emodistill("corpus", "prepare", "iemocap", tmp_path / "tree", "-o", out)
    assert (result.code, result.out) == (0, "")
    assert "excited -> happy" in result.err
    assert "no emotion" in result.err
    assert "--labels all keeps them" in result.err
    assert {utterance.emotion for utterance in read_manifest(out)} == {"happy", "angry"}
    whole = emodistill("corpus", "prepare", "iemocap", tmp_path / "tree", "--labels", "all", "-o", out)
    assert "keeps them" not in whole.err
    undecided = {item.id: item for item in read_manifest(out)}["Ses01F_impro04_F000"]
    assert undecided.emotion is None
    assert undecided.unit_dimensions()["valence"] == pytest.approx((2.5 - 1) / 4)
    emodistill("corpus", "prepare", "iemocap", tmp_path / "tree", "-o", out)

    sorted((tmp_path / "tree").rglob("*.wav"))[-1].write_text("broken")
    result = emodistill("corpus", "prepare", "iemocap", tmp_path / "tree", "-o", out)
    assert result.code == 1
    assert "audio broken" in result.err
    assert len(read_manifest(out)) == 1


@pytest.mark.parametrize("name", ["x.xlsx", "x", "x.CSVS"])
def test_corpus_prepare_refuses_an_unknown_suffix_before_it_reads(
    emodistill: Call, tmp_path: Path, name: str
) -> None:
    result = emodistill("corpus", "prepare", "ravdess", tmp_path / "no such folder", "-o", tmp_path / name)
    assert (result.code, result.out) == (2, "")
    assert re.search(
        r"bad suffix of a manifest '.*', expected one of \['.csv', '.tsv', '.parquet'\]", result.err
    )
    assert "no folder" not in result.err
    assert not (tmp_path / name).exists()


OWN_OPTIONS = ("--columns", "path=wav,speaker=who,emotion=feeling", "--map-emotions", "anger=angry,oth=-")


def own_table(folder: Path, manifest: Path) -> Path:
    """A table as another program writes it: the utterances of a manifest under other names."""
    names = {"angry": "anger"}
    lines = ["wav;who;feeling;note"]
    for row in make.read_rows(manifest):
        wav = manifest.parent / row["path"]
        lines.append(f"{wav};{row['speaker']};{names.get(row['emotion'], row['emotion'])};x")
    lines.append(f"{wav};nobody;oth;x")
    table = folder / "own.csv"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return table


def test_corpus_prepare_reads_a_table_of_ones_own(emodistill: Call, manifest: Path, tmp_path: Path) -> None:
    table, out = own_table(tmp_path, manifest), tmp_path / "utterances.csv"
    result = emodistill("corpus", "prepare", "csv", table, *OWN_OPTIONS, "-o", out)
    assert (result.code, result.out) == (0, ""), result.err
    assert "dropped: 1 × emotion oth" in result.err
    assert "not used: note" in result.err
    assert re.search(r"all +│ +36 │ +6 │ +\d", result.err)
    prepared, given = read_manifest(out), read_manifest(manifest)
    assert [(u.speaker, u.emotion) for u in prepared] == [(u.speaker, u.emotion) for u in given]
    assert [u.duration_s for u in prepared] == [audio_duration_s(u) for u in given]

    table.write_text("wav;feeling\nx.wav;sad\n", encoding="utf-8")
    result = emodistill("corpus", "prepare", "csv", table, "--columns", "path=wav,emotion=feeling", "-o", out)
    assert result.code == 2
    assert "has no column 'speaker' (it has ['wav', 'feeling'])" in result.err
    assert "--columns 'path=wav,emotion=feeling,speaker=…'" in result.err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("csv", "own.csv", "-o", "own.csv"), r"'own\.csv' is the table itself"),
        (("csv", "gone.csv", "-o", "x.csv"), r"no table 'gone\.csv'"),
        (("cvs", "own.csv", "-o", "x.csv"), r"bad corpus 'cvs'.*did you mean 'csv'"),
        (("nemo", ".", "-o", "x.csv", "--columns", "id=file"), r"corpus prepare csv\), not nemo"),
        (("nemo", "own.csv", "-o", "x.csv"), r"'own\.csv' is a file, expected the folder of nemo"),
    ],
)
def test_corpus_prepare_refuses_what_does_not_fit(
    args: tuple[str, ...], message: str, emodistill: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.csv").write_text("id,speaker,emotion\n")
    result = emodistill("corpus", "prepare", *args)
    assert result.code == 2
    assert re.search(message, result.err)


def test_stats_and_audit_read_a_table_of_ones_own(emodistill: Call, manifest: Path, tmp_path: Path) -> None:
    from emodistill.config import recipe_toml

    table = own_table(tmp_path, manifest)
    result = emodistill("corpus", "stats", table, *OWN_OPTIONS)
    assert result.code == 0, result.err
    assert "dropped: 1 × emotion oth" in result.err
    assert "36 utterances, 6 speakers" in " ".join(result.out.split())
    moved = table.with_name("moved.csv")
    moved.write_text(table.read_text().replace(f"{manifest.parent}/", "sub\\").replace(".wav", ".flac"))
    far = emodistill("corpus", "stats", moved, *OWN_OPTIONS)
    assert far.code == 0
    assert "minutes without 36 utterances whose audio is missing or broken" in far.err
    (tmp_path / "link").mkdir()
    (tmp_path / "link/sub").symlink_to(manifest.parent)
    near = emodistill("corpus", "stats", moved, *OWN_OPTIONS, "--root", tmp_path / "link")
    assert "36 × audio found under another suffix: .wav for .flac" in near.err
    rows = [[line for line in out.splitlines() if "│" in line] for out in (near.out, result.out)]
    assert rows[0] == rows[1]
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(recipe_toml(make.recipe(table)))
    result = emodistill("corpus", "audit", recipe, *OWN_OPTIONS)
    assert result.code == 0, result.err
    assert "dropped: 1 × emotion oth" in result.err
    set_options = ("--set", f"corpus.columns={OWN_OPTIONS[1]}", "--set", f"corpus.emotions={OWN_OPTIONS[3]}")
    assert emodistill("corpus", "audit", recipe, *set_options).out == result.out
    bad = emodistill("corpus", "audit", recipe, *OWN_OPTIONS[:2], "--map-emotions", "anger=angri")
    assert bad.code == 2
    assert "--map-emotions anger=angri: bad emotion 'angri'" in bad.err


def test_corpus_stats(emodistill: Call, manifest: Path) -> None:
    result = emodistill("corpus", "stats", manifest)
    assert result.code == 0
    assert "36 utterances, 6 speakers" in " ".join(result.out.split()), "the title may be wrapped"


def test_corpus_audit(emodistill: Call, manifest: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.toml"
    from emodistill.config import recipe_toml

    recipe.write_text(recipe_toml(make.recipe(manifest)))
    result = emodistill("corpus", "audit", recipe)
    assert result.code == 0
    assert re.search(r"hash \w{12}: no leak", " ".join(result.out.split()))

    result = emodistill("corpus", "audit", recipe, "--set", 'protocol.allow=["speaker"]')
    title = " ".join(result.out.split())
    assert re.search(r"hash \w{12}: no leak except in speaker, which the recipe allows", title)
    assert "BY DESIGN" not in title
    assert len([line for line in result.out.splitlines() if re.search(" 12 +12 +12 ", line)]) == 3
    leak = emodistill("corpus", "audit", recipe, "--set", "protocol.kind=published")
    assert leak.code == 2
    assert "bad split" in leak.err


def test_train_runs_one_fold_and_export_follows(emodistill: Call, manifest: Path, tmp_path: Path) -> None:
    from emodistill.config import recipe_toml

    recipe, out = tmp_path / "tiny.toml", tmp_path / "run"
    recipe.write_text(recipe_toml(make.recipe(manifest)))
    args = ["--out", out, "--set", "protocol.refit=false", "--set", 'distillation.teachers=["prosodic"]']
    result = emodistill("train", recipe, "--fold", "2", *args)
    assert result.code == 0, result.err
    assert "UA" in result.out
    assert f"run folder: {out}\nnext: emodistill export {out} -o exported\n" in result.err
    assert sorted(path.name for path in out.glob("fold-*")) == ["fold-2"]
    assert {row["fold"] for row in make.read_rows(out / "predictions.csv")} == {"2"}
    unknown = emodistill("train", recipe, "--fold", "7", *args)
    assert unknown.code == 2
    assert "bad fold '7'" in unknown.err


def test_confidences_that_the_model_has_scaled_are_not_called_unscaled(
    emodistill: Call, manifest: Path, exported: Path, run: Path, tmp_path: Path
) -> None:
    result = emodistill("evaluate", exported, manifest, "--seen", "allow", "-o", tmp_path / "out")
    assert result.code == 0, result.err
    assert "as the model gives them" in result.out
    assert "before scaling" not in result.out
    assert "after scaling" in emodistill("scores", run).out
    page = tmp_path / "report.html"
    for folder, texts in (
        (tmp_path / "out", ["as the model gives them"]),
        (run, ["before scaling", "after scal"]),
    ):
        assert emodistill("report", folder, "-o", page, "--errors", 0).code == 0
        assert all(text in page.read_text() for text in texts)
        assert "unscaled" not in page.read_text()


def test_after_a_teacher_alone_the_next_command_works(
    emodistill: Call, manifest: Path, tmp_path: Path
) -> None:
    from emodistill.config import recipe_toml

    recipe, out = tmp_path / "tiny.toml", tmp_path / "run"
    optim = {**make.OPTIM, "epochs": 1}
    teacher = make.recipe(
        manifest, student="none", distillation={"teachers": ["linguistic"]}, linguistic={"optim": optim}
    )
    recipe.write_text(recipe_toml(teacher))
    result = emodistill("train", recipe, "--out", out, "--set", "protocol.refit=false")
    assert result.code == 0, result.err
    (command,) = re.findall(r"next: emodistill (.*)", result.err)
    assert command == f"scores {out}"
    result = emodistill(*command.split())
    assert result.code == 0, result.err
    assert "linguistic" in result.out


@pytest.mark.skipif(not BUNDLED.is_dir(), reason="no bundled model")
@pytest.mark.parametrize("verb", ["predict", "timeline"])
def test_square_brackets_in_names_are_printed(
    emodistill: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.chdir(tmp_path)  # a short path is not wrapped
    path = Path("take [2].wav")
    path.write_text("no audio [/bold]")
    result = emodistill(verb, path)
    assert result.code == 1
    assert "take [2].wav" in result.out
    assert "take [2].wav" in result.err


def test_ctrl_c_in_a_verb_that_continues_says_how_to_continue(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("emodistill.config.load_recipe", interrupt)
    monkeypatch.setattr(sys, "argv", ["emodistill", "crossval", "demo"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 130
    assert "stopped; to continue, run the same command again" in capsys.readouterr().err
