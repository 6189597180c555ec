"""The paths of a manifest: they name audio in its folder or in a folder of the user, and no other file."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import factories as make
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from emodistill.config import CorpusConfig
from emodistill.corpora import TABLE_READERS, TableOptions, read_manifest, read_own_table, write_manifest
from emodistill.corpora.audio_folders import AudioFolders, remembered_folders
from emodistill.corpora.load import CorpusSource, open_corpus
from emodistill.corpora.parts import MAX_NAME_BYTES, file_stem, file_stems
from emodistill.errors import CorpusError
from emodistill.inference.input_lists import read_list

Call = make.CommandLine
OPTION = "--root FOLDER"


@pytest.fixture
def place(tmp_path: Path, own_cache: Path) -> Path:
    """A folder `given` with clip.wav and links, and secret.wav beside it; nothing is remembered."""
    given = tmp_path / "given"
    given.mkdir()
    for path in (given / "clip.wav", tmp_path / "secret.wav"):
        soundfile.write(path, make.speech(0.4), make.RATE)
    (given / "link.wav").symlink_to(tmp_path / "secret.wav")
    (given / "out").symlink_to(tmp_path)
    (given / "inner.wav").symlink_to("clip.wav")
    return tmp_path


def hostile(place: Path) -> dict[str, str]:
    """Paths that leave the folder, by the name of the trick."""
    return {
        "parent": "../secret.wav",
        "hidden parent": "x/../../secret.wav",
        "backslashes": "..\\secret.wav",
        "absolute": str(place / "secret.wav"),
        "link": "link.wav",
        "linked folder": "out/secret.wav",
        "device": "/dev/zero",
        "parent at the end": "..",
    }


TRICKS = tuple(hostile(Path("x")))


def csv_rows(place: Path, path: str) -> Path:
    table = place / "given" / "table.csv"
    make.write_rows(table, [{"id": "a", "path": "clip.wav", "speaker": "s1", "emotion": "angry"},
                            {"id": "b", "path": path, "speaker": "s2", "emotion": "sad"}])  # fmt: skip
    return table


def read_csv(place: Path, path: str, root: Path | None) -> Path | None:
    return read_manifest(csv_rows(place, path), root=root).utterances[1].path


def read_bridge(
    name: str, write: Callable[[Path, str], None]
) -> Callable[[Path, str, Path | None], Path | None]:
    def read(place: Path, path: str, root: Path | None) -> Path | None:
        folder = place / "given"
        write(folder, path)
        used = root if "root" in TABLE_READERS[name].options else None
        table = TABLE_READERS[name].read(folder, TableOptions(root=used))
        corpus = read_own_table(table, {}, {}, "all", root, lambda text: None)
        return next(item.path for item in corpus if item.emotion == "sad")

    return read


def write_kaldi(folder: Path, path: str) -> None:
    (folder / "wav.scp").write_text(f"a clip.wav\nb {path}\n")
    (folder / "utt2spk").write_text("a s1\nb s2\n")
    (folder / "utt2emo").write_text("a angry\nb sad\n")


def write_lhotse(folder: Path, path: str) -> None:
    lines = []
    for name, source, emotion in (("a", "clip.wav", "angry"), ("b", path, "sad")):
        recording = {"id": name, "sources": [{"type": "file", "channels": [0], "source": source}],
                     "sampling_rate": 16000, "num_samples": 6400, "duration": 0.4}  # fmt: skip
        item = {
            "id": name,
            "start": 0,
            "duration": 0.4,
            "speaker": f"s{name}",
            "custom": {"emotion": emotion},
        }
        cut = {"id": name, "start": 0, "duration": 0.4, "type": "MonoCut", "channel": 0}
        lines.append(json.dumps({**cut, "recording": recording, "supervisions": [item]}))
    (folder / "cuts.jsonl").write_text("\n".join(lines))


def write_audiofolder(folder: Path, path: str) -> None:
    rows = [("clip.wav", "angry", "s1"), (path, "sad", "s2")]
    keys = ("file_name", "label", "speaker_id")
    text = "\n".join(json.dumps(dict(zip(keys, row, strict=True))) for row in rows)
    (folder / "metadata.jsonl").write_text(text)


READ = {
    "csv": read_csv,
    "kaldi": read_bridge("kaldi", write_kaldi),
    "lhotse": read_bridge("lhotse", write_lhotse),
    "audiofolder": read_bridge("audiofolder", write_audiofolder),
}


@pytest.mark.parametrize("trick", TRICKS)
@pytest.mark.parametrize("kind", READ)
def test_a_path_that_leaves_the_folder_is_refused_with_its_row_and_the_option(
    kind: str, trick: str, place: Path
) -> None:
    path = hostile(place)[trick]
    with pytest.raises(CorpusError) as caught:
        READ[kind](place, path, None)
    message = str(caught.value)
    shown = path if kind != "audiofolder" else path.replace("\\", "/")
    assert f"'{shown}'" in message or f"'{Path(shown)}'" in message
    assert OPTION in message
    assert any(word in message for word in ("row 3", "line 2"))


@pytest.mark.parametrize("kind", READ)
def test_the_option_allows_a_path(kind: str, place: Path) -> None:
    for path in (str(place / "secret.wav"), "link.wav"):
        found = READ[kind](place, path, place)
        assert found is not None
        assert found.resolve() == place / "secret.wav"


@pytest.mark.parametrize("path", ["clip.wav", "./clip.wav", "inner.wav", "x/../clip.wav"])
def test_a_path_that_stays_in_the_folder_is_read(path: str, place: Path) -> None:
    (place / "given" / "x").mkdir()
    found = read_csv(place, path, None)
    assert found is not None
    assert found.samefile(place / "given" / "clip.wav")


@pytest.mark.parametrize("path", ["a\0b.wav", "a" * 256 + ".wav", "x/" * 2500 + "a.wav"])
def test_a_path_that_no_file_system_allows_is_refused_with_its_row(path: str, place: Path) -> None:
    with pytest.raises(CorpusError, match="row 3: bad path"):
        read_csv(place, path, None)


@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_no_text_of_a_path_leads_out_of_the_folder(text: str) -> None:
    root = Path("/nowhere/given")
    try:
        checked = AudioFolders([root]).check(root / text, text)
    except CorpusError:
        return
    for candidate in (str(checked), str(checked).replace("\\", "/")):
        assert Path(os.path.realpath(candidate)).is_relative_to(root)


def test_a_manifest_that_this_user_wrote_may_name_audio_elsewhere(place: Path, emodistill: Call) -> None:
    data = make.corpus_folder(place / "data")
    result = emodistill("corpus", "prepare", "csv", data, "-o", place / "elsewhere" / "utterances.csv")
    assert result.code == 0, result.err
    written = place / "elsewhere" / "utterances.csv"
    assert read_manifest(written).utterances[0].path is not None
    assert remembered_folders() == [min(data.parent.rglob("*.wav")).parent]
    copy = place / "moved.csv"
    copy.write_text(written.read_text().replace("s0", "s9"))
    assert len(read_manifest(copy)) == len(read_manifest(written))


def test_another_user_names_the_root_of_the_audio(
    place: Path, emodistill: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make.corpus_folder(place / "data")
    written = place / "elsewhere" / "utterances.csv"
    write_manifest(read_manifest(data), written)
    monkeypatch.setenv("EMODISTILL_CACHE", str(place / "other-cache"))
    result = emodistill("corpus", "stats", written)
    assert result.code == 2
    assert OPTION in result.err
    assert emodistill("corpus", "stats", written, "--root", data.parent).code == 0
    with pytest.raises(CorpusError, match=r"corpus\.audio_root"):
        open_corpus(CorpusConfig(manifest=str(written)), lambda text: None)
    config = CorpusConfig(manifest=str(written), audio_root=str(data.parent))
    assert len(open_corpus(config, lambda text: None)) == len(read_manifest(data))
    source = CorpusSource(str(written), data.parent)
    assert len(source.read("all", lambda text: None)) == len(read_manifest(data))


def test_a_cache_that_cannot_be_written_only_costs_the_memory(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make.corpus_folder(place / "data")
    (place / "file").write_text("no folder")
    monkeypatch.setenv("EMODISTILL_CACHE", str(place / "file"))
    write_manifest(read_manifest(data), place / "elsewhere" / "utterances.csv")
    assert remembered_folders() == []


def test_a_folder_of_everything_is_never_remembered(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(place))
    shutil.copy(place / "secret.wav", place / "given" / "other.wav")
    table = place / "table.csv"
    make.write_rows(table, [{"id": "a", "path": "secret.wav", "speaker": "s1", "emotion": "angry"}])
    write_manifest(read_manifest(table), place / "given" / "written.csv")
    assert Path("/") not in remembered_folders()


def test_a_list_of_the_user_names_any_file(place: Path) -> None:
    (place / "given" / "list.txt").write_text(f"{place / 'secret.wav'}\n../secret.wav\n")
    assert all(
        item.location.samefile(place / "secret.wav") for item in read_list(place / "given" / "list.txt")
    )


HOSTILE_NAMES = (
    "../../evil", "/etc/evil", "C:\\evil", "..", ".", "", "a\0b", "CON", "nul.txt", "com1", "x" * 5000,
    "é" * 300, "a/b\\c", "trailing. ", "\ud800",
)  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_the_name_of_an_utterance_makes_a_file_in_the_folder(name: str, tmp_path: Path) -> None:
    stem = file_stem(name)
    target = tmp_path / f"{stem}.flac"
    target.write_bytes(b"x")
    assert target.parent.resolve() == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
    assert len(stem.encode()) <= MAX_NAME_BYTES
    assert stem.split(".")[0].upper() not in ("CON", "NUL", "COM1", "")
    assert not stem.endswith((".", " "))


def test_hostile_names_make_different_files() -> None:
    stems = file_stems(HOSTILE_NAMES)
    assert len({stem.casefold() for stem in stems.values()}) == len(HOSTILE_NAMES)
