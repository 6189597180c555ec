"""Hugging Face `datasets` reads our audiofolder, and we read what it saves; no audio is decoded there."""

import sys
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from types import ModuleType

import datasets
import pytest
import soundfile

from emodistill.corpora import (
    TABLE_READERS,
    Corpus,
    TableOptions,
    Utterance,
    drop_bad_audio,
    read_own_table,
)
from emodistill.corpora.writers import write_corpus
from emodistill.errors import ConfigError, CorpusError

DEMO_CALL = files("emodistill") / "demo" / "call.ogg"

EMOTIONS = {"anger": "angry", "joy": "happy"}


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """Parts of the demo call; one split lacks a transcript and a dimension, and names have spaces."""
    samples, rate_hz = soundfile.read(str(DEMO_CALL), dtype="int16")
    path = tmp_path / "zażółć gęślą.wav"
    soundfile.write(path, samples[: 4 * rate_hz], rate_hz)
    items = (
        Utterance("test 1", "0001", "angry", path, 0.0, 1.0, gender="female", split="train", corpus="calls",
                  transcript="Nie!", transcript_source="gold", arousal=4.0, scale=(1.0, 5.0)),
        Utterance("é b", "0002", "sad", path, 1.5, 3.0, split="dev", corpus="calls"),
        Utterance("c", "0003", None, path, split="test", corpus="calls", votes='{"sad": 1, "angry": 1}'),
    )  # fmt: skip
    return drop_bad_audio(Corpus("calls", items))[0]


@pytest.fixture
def codec(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace torchcodec, which `datasets` imports for a folder even though it stores the paths alone.

    The real torchcodec needs FFmpeg, and a build for the same hardware as that of torch.
    """
    classes = {"encoders": ("AudioEncoder",), "decoders": ("AudioDecoder", "VideoDecoder")}
    monkeypatch.setitem(sys.modules, "torchcodec", ModuleType("torchcodec"))
    for part, names in classes.items():
        module = ModuleType(f"torchcodec.{part}")
        for name in names:
            setattr(module, name, type(name, (), {}))
        monkeypatch.setitem(sys.modules, module.__name__, module)


def prepared(name: str, source: Path, options: TableOptions | None = None, emotions: bool = False) -> Corpus:
    options = options or TableOptions()
    table = TABLE_READERS[name].read(source, options)
    names = EMOTIONS if emotions else {}
    corpus = read_own_table(table, options.columns, names, "all", None, lambda text: None)
    return drop_bad_audio(corpus, measure=True)[0]


def without_place(item: Utterance) -> Utterance:
    return replace(item, path=None, start_s=None, end_s=None)


@pytest.mark.usefixtures("codec")
def test_datasets_reads_our_audiofolder(corpus: Corpus, tmp_path: Path) -> None:
    write_corpus(corpus, "audiofolder", tmp_path / "out dir")
    loaded = datasets.load_dataset(
        "audiofolder", data_dir=str(tmp_path / "out dir"), cache_dir=str(tmp_path / "cache")
    )
    found = {
        row["id"]: (split, row["speaker"], row["emotion"])
        for split, part in loaded.items()
        for row in part.remove_columns("audio")
    }
    assert found == {
        "test 1": ("train", "0001", "angry"), "é b": ("validation", "0002", "sad"), "c": ("test", "0003", ""),
    }  # fmt: skip
    audio = loaded["validation"].cast_column("audio", datasets.Audio(decode=False))[0]["audio"]
    assert soundfile.info(audio["path"]).duration == pytest.approx(1.5)
    back = {item.id: item for item in prepared("audiofolder", tmp_path / "out dir")}
    assert [without_place(back[item.id]) for item in corpus] == [without_place(item) for item in corpus]


@pytest.mark.usefixtures("codec")
def test_without_splits_datasets_has_one(corpus: Corpus, tmp_path: Path) -> None:
    whole = replace(corpus, utterances=tuple(replace(item, split=None) for item in corpus))
    write_corpus(whole, "audiofolder", tmp_path / "out")
    loaded = datasets.load_dataset(
        "audiofolder", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache")
    )
    assert {split: len(part) for split, part in loaded.items()} == {"train": 3}
    assert {item.split for item in prepared("audiofolder", tmp_path / "out")} == {None}


@pytest.mark.parametrize("has_bytes", [True, False], ids=["bytes", "paths"])
def test_a_saved_dataset_is_prepared(corpus: Corpus, tmp_path: Path, has_bytes: bool) -> None:
    write_corpus(corpus, "audiofolder", tmp_path / "files")
    splits = {}
    for split in ("train", "validation"):
        (path,) = (tmp_path / "files" / split).glob("*.flac")
        given = (
            {"path": path.name, "bytes": path.read_bytes()}
            if has_bytes
            else {"path": str(path), "bytes": None}
        )
        features = datasets.Features(
            {
                "speech": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
                "emotion": datasets.ClassLabel(names=["anger", "joy"]),
                "who": datasets.Value("int64"),
            }
        )
        rows = {"speech": [given] * 2, "emotion": [0, 1], "who": [1, 2]}
        plain = datasets.Dataset.from_dict(rows, features=features)
        splits[split] = plain.cast_column("speech", datasets.Audio(decode=False))
    source = tmp_path / "saved set"
    datasets.DatasetDict(splits).save_to_disk(str(source))
    options = TableOptions({"speaker": "who"})
    if has_bytes:
        with pytest.raises(
            ConfigError, match=r"train\[0\]: the dataset holds its audio as bytes.*--audio-out"
        ):
            prepared("datasets", source, options, emotions=True)
    options = replace(options, audio_out=tmp_path / "audio")
    found = prepared("datasets", source, options, emotions=True)
    assert [(item.speaker, item.emotion, item.split) for item in found] == [
        ("1", "angry", "train"), ("2", "happy", "train"), ("1", "angry", "dev"), ("2", "happy", "dev"),
    ]  # fmt: skip
    assert [item.duration_s for item in found] == pytest.approx([1.0, 1.0, 1.5, 1.5])
    assert prepared("datasets", source, options, emotions=True) == found


@pytest.fixture
def source(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a card and Parquet files, as the hub holds them; its path is like an id, `user/calls`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_corpus(corpus, "audiofolder", tmp_path / "files")
    folder = tmp_path / "user" / "calls"
    (folder / "small").mkdir(parents=True)
    for split, emotion in (("train", "anger"), ("validation", "joy")):
        (path,) = (tmp_path / "files" / split).glob("*.flac")
        rows = {
            "speech": [{"path": path.name, "bytes": path.read_bytes()}],
            "emotion": [emotion],
            "who": ["0001"],
        }
        part = datasets.Dataset.from_dict(rows).cast_column("speech", datasets.Audio(decode=False))
        part.to_parquet(folder / "small" / f"{split}-00000-of-00001.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: small\n  data_files:\n"
        "  - {split: train, path: small/train-*}\n  - {split: validation, path: small/validation-*}\n"
        "- config_name: large\n  data_files: large/*\n---\n"
    )
    return Path("user/calls")


def test_the_files_of_a_dataset_of_the_hub_are_prepared(source: Path, tmp_path: Path) -> None:
    options = TableOptions({"speaker": "who"}, audio_out=tmp_path / "audio", subset="small")
    found = prepared("datasets", source, options, emotions=True)
    assert [(item.speaker, item.emotion, item.split) for item in found] == [
        ("0001", "angry", "train"), ("0001", "happy", "dev"),
    ]  # fmt: skip
    assert [item.duration_s for item in found] == pytest.approx([1.0, 1.5])
    with pytest.raises(CorpusError, match=r"'user/calls' cannot be loaded: .*'small', 'large'"):
        prepared("datasets", source, replace(options, subset=None), emotions=True)


def test_an_id_of_the_hub_has_a_subset_and_a_version(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = datasets.load_dataset
    calls = []

    def load_dataset(*args: object, **given: object) -> object:
        calls.append((args, given))
        return load(str(source), "small")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    options = TableOptions({"speaker": "who"}, audio_out=tmp_path / "audio", subset="small", version="v2")
    found = prepared("datasets", Path("someone/corpus"), options, emotions=True)
    assert calls == [(("someone/corpus", "small"), {"revision": "v2"})]
    assert [(item.emotion, item.split) for item in found] == [("angry", "train"), ("happy", "dev")]


def test_what_cannot_be_loaded_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="cannot be loaded"):
        prepared("datasets", tmp_path / "nothing")
    text = datasets.Dataset.from_dict({"text": ["a"], "speaker": ["s"], "emotion": ["sad"]})
    text.save_to_disk(str(tmp_path / "text"))
    with pytest.raises(CorpusError, match=r"no column of audio \(it has \['text', 'speaker', 'emotion'\]\)"):
        prepared("datasets", tmp_path / "text")
    with pytest.raises(ConfigError, match="leave --subset and --version out"):
        prepared("datasets", tmp_path / "text", TableOptions(subset="x"))
