"""Files that a random change does not make: deep, wide and huge ones, and pipes. Each is refused at once."""

import json
import os
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import soundfile

from emodistill.audio.waveform import load
from emodistill.config import load_recipe
from emodistill.corpora.base import natural_sort_key
from emodistill.corpora.given_labels import read_labels
from emodistill.corpora.parts import write_part
from emodistill.corpora.readers.lhotse import read as read_lhotse
from emodistill.corpora.tables import TableOptions, read_table
from emodistill.corpora.words import _whisperx
from emodistill.errors import AudioError, ConfigError, CorpusError, ModelError, one_of
from emodistill.inference.fetch import Safetensors
from emodistill.inference.given_segments import parse_segments, read_segments
from emodistill.inference.resume import MadeWith
from emodistill.inference.voices import Voice
from emodistill.models.pretrained import find_pretrained
from emodistill.protocol.folds import read_protocol
from emodistill.reading import parse_toml

DEEP, LONG = "[" * 5000, "9" * 4000  # Python converts no text of over 4300 digits


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (".".join(["a"] * 32_000) + " = 1", "a key has over 100 parts"),
        (".".join(['"a"'] * 300) + " = 1", "a key has over 100 parts"),
        ("seed = " + "9" * 60_000, "is not TOML"),
        ("[student]\nqueries = 0x" + "f" * 5000, "an integer has over 64 bits"),
        ("a = " + DEEP, "nested too deeply"),
        ("a" * 60_000, "is not TOML"),
        ("'a'" * 20_000, "is not TOML"),
    ],
    ids=lambda value: value[:12],
)
def test_toml_that_would_take_much_memory_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_recipe(path)


def test_toml_of_usual_keys_is_read() -> None:
    assert parse_toml("a.b.'c d'.e = 1\n[x.y]\nz = -9223372036854775808") == {
        "a": {"b": {"c d": {"e": 1}}}, "x": {"y": {"z": -(2**63)}},
    }  # fmt: skip


@pytest.mark.parametrize("text", [DEEP, LONG, "{" + DEEP, '{"angry": 1' + "0" * 400 + "}"])
def test_votes_that_are_no_counts_are_refused(text: str) -> None:
    with pytest.raises(CorpusError, match="votes"):
        read_labels(None, text, has_emotions=False)


@pytest.mark.parametrize("text", [DEEP, LONG, "1e999", "{}"])
def test_files_of_json_that_hold_something_else_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "protocol.json").write_text(text)
    with pytest.raises(ModelError, match="is no protocol"):
        read_protocol(tmp_path / "protocol.json")
    (tmp_path / "config.json").write_text(text)
    (tmp_path / "model.safetensors").write_bytes(b"")
    if text != "{}":
        with pytest.raises(ModelError, match=r"its config\.json is no"):
            find_pretrained(str(tmp_path), "student.backbone")
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text.encode())
    if text != "{}":
        with pytest.raises(ModelError, match="is not a safetensors file"):
            Safetensors(tmp_path / "model.safetensors")


@pytest.mark.parametrize("shape", ["[1e999]", "[-1, -1]"])
def test_an_array_of_an_impossible_shape_is_refused(tmp_path: Path, shape: str) -> None:
    header = '{"a": {"dtype": "F32", "shape": ' + shape + ', "data_offsets": [0, 4]}}'
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(4))
    with pytest.raises(ModelError, match=r"is not a safetensors file|is damaged at 'a'"):
        Safetensors(path).read("a")


def test_segments_with_many_columns_or_with_lists_as_speakers_are_read() -> None:
    wide = "start,end" + "," * 100_000 + "\n" + "0,1\n" * 20_000  # a cell for each would take minutes
    assert len(parse_segments(wide, "x").by_name[None]) == 20_000
    listed = {"segments": [{"start": 0, "end": 1, "words": [{"word": "a", "speaker": ["x"]}]}]}
    (segment,) = parse_segments(json.dumps(listed), "x").by_name[None]
    assert segment.speaker == "['x']"


def test_numbers_of_lhotse_and_kaldi_that_are_far_too_large_are_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(16_000), 16_000)
    for start_s, end_s, problem in (
        (0.0, 1e308, None),
        (1e308, None, "no samples"),
        (1e15, 1e308, "no samples"),
    ):
        with nullcontext() if problem is None else pytest.raises(AudioError, match=problem):
            write_part(tmp_path / "a.wav", tmp_path / "part.flac", start_s, end_s)
        with nullcontext() if problem is None else pytest.raises(AudioError, match="no samples"):
            assert len(load(tmp_path / "a.wav", start_s, end_s)) == 16_000
    recording = {"sources": [{"type": "file", "source": "a.wav", "channels": [0]}], "sampling_rate": 16_000}
    cut = {
        "start": 0, "duration": 1, "recording": {**recording, "duration": 1},
        "supervisions": [{"start": 0, "duration": 1, "speaker": "s1"}],
    }  # fmt: skip
    path = tmp_path / "cuts.jsonl"
    for more in ({"duration": int("9" * 401)}, {"start": 1e300}):
        path.write_text(json.dumps(cut | more))
        with pytest.raises(CorpusError, match=r"(duration|start) is .*, expected a number"):
            read_lhotse(path, TableOptions())
    shared = {str(number): 0 for number in range(9000)}
    path.write_text(json.dumps(cut | {"custom": shared, "supervisions": cut["supervisions"] * 9000}))
    with pytest.raises(CorpusError, match="the rows take over 1073741824 bytes"):
        read_lhotse(path, TableOptions())


@pytest.mark.parametrize("text", [DEEP, '{"a": ' + DEEP, '{"inputs": {"a.wav": 5}}', "[1]"])
def test_damaged_notes_of_an_output_are_refused_and_replaced_by_force(tmp_path: Path, text: str) -> None:
    note = tmp_path / ".rows.jsonl.made_with.json"
    note.write_text(text)
    with pytest.raises(ConfigError, match="is damaged"):
        MadeWith.read(note, tmp_path / "rows.jsonl")
    assert MadeWith.read(note, tmp_path / "rows.jsonl", force=True).settings == {}


@pytest.mark.parametrize("value", [1e99, 3e38, -1e8])
def test_a_voice_whose_mean_no_speech_has_is_refused(value: float) -> None:
    with pytest.raises(ModelError, match="bad mean of a voice"):
        Voice("model", np.array([0.0, value]), 5, 5.0)


def test_a_name_with_a_nul_is_no_voice() -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        Voice.load("a\0b")


def test_segments_without_an_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emodistill.inference.given_segments.MAX_FILE_BYTES", 10_000)
    with pytest.raises(ConfigError, match="has over 10000 bytes"):
        read_segments(Path("/dev/zero"))


def test_long_values_are_cut_in_messages() -> None:
    assert one_of("model", "x" * 60_000, ["small"]) == f"bad model '{'x' * 200}…', expected one of ['small']"


def test_long_numbers_in_names_are_sorted_as_text() -> None:
    names = ["s" + "9" * 5000, "s10", "s2"]
    assert sorted(names, key=natural_sort_key)[-2:] == ["s2", "s10"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    def pipe(name: str) -> Path:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        os.mkfifo(tmp_path / name)
        return tmp_path / name

    with pytest.raises(CorpusError, match="is no regular file"):
        read_table(pipe("m.csv"))
    (tmp_path / "lhotse").mkdir()
    (tmp_path / "lhotse/cuts_a.jsonl").write_text("")
    pipe("lhotse/cuts_b.jsonl")
    with pytest.raises(CorpusError, match="is no regular file"):
        read_lhotse(tmp_path / "lhotse", TableOptions())
    pipe("model/config.json")
    (tmp_path / "model/model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="is no regular file"):
        find_pretrained(str(tmp_path / "model"), "student.backbone")
    pipe("words/a.json")
    with pytest.raises(CorpusError, match="is no regular file"):
        list(_whisperx(tmp_path / "words"))
