"""A dataset of Hugging Face `datasets`: an id of the hub, or a folder that `save_to_disk` wrote.

Names of classes stand in place of their numbers. The names of splits are the column of splits. Audio that a
dataset holds as bytes is written into a folder.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from emodistill.corpora.parts import file_stem
from emodistill.corpora.readers.audiofolder import SPLITS
from emodistill.corpora.tables import Row, Table, TableOptions, TableReader
from emodistill.errors import ConfigError, CorpusError, MissingExtraError, one_of

_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}")
SPLIT = "name of the split"  # the column of the names
_SAVED = ("dataset_dict.json", "state.json")
# The first bytes of audio files, for bytes without a name.
_SUFFIXES = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg", b"ID3": ".mp3", b"\xff\xfb": ".mp3"}

_IS_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}")

_Bytes = tuple[str, Callable[[Path], None]]  # name of the file, and what writes it


def read(source: Path, options: TableOptions) -> Table:
    """Read a dataset; no audio is decoded.

    `source` is an id such as `user/corpus`, or a folder that `save_to_disk` wrote. A folder of another kind
    is read by `load_dataset`. `--subset` is the configuration, and `--version` the revision on the hub. The
    path is the first column of audio, unless `--columns path=` names another.

    Raises:
        MissingExtraError: `datasets` is not installed.
        CorpusError: a dataset that cannot be loaded, without audio, or with a row that has neither bytes nor
            a file.
        ConfigError: the dataset holds bytes, and `--audio-out` is missing.
    """
    parts = _load(source, options)
    columns = tuple(next(iter(parts.values())).features)
    audio = options.columns.get("path") or _audio_column(source, parts)
    if audio not in columns:
        raise CorpusError(f"--columns path={audio}: {one_of('column', audio, columns)}")
    rows: list[tuple[int, Row]] = []
    places: dict[int, str] = {}
    found: dict[int, _Bytes] = {}
    for split, part in parts.items():
        for index, row in enumerate(_rows(part)):
            number = len(rows) + 1
            places[number] = f"'{source}', {split}[{index}]"
            given = row[audio]
            if isinstance(given, dict):
                path, data = given.get("path"), given.get("bytes")
                if data is None and not path:
                    raise CorpusError(f"{places[number]}: no audio in '{audio}', expected bytes or a path")
                row[audio] = path
                if data is not None:
                    name = Path(str(path or f"{split}-{index:06d}").replace("\\", "/"))
                    suffix = name.suffix if _IS_SUFFIX.fullmatch(name.suffix) else _suffix(data)
                    found[number] = (name.stem + suffix, partial(_write_bytes, part, index, audio))
            rows.append((number, row | {SPLIT: SPLITS.get(split.lower(), split)}))
    unwritten = _bytes_files(dict(rows), found, audio, places, options.audio_out)
    usual = {"path": audio, "split": SPLIT, "emotion": "label", "speaker": "speaker_id"}
    return Table(
        source, (*columns, SPLIT), tuple(rows), usual, places, unwritten=unwritten, folders=_cache_folders()
    )


def _cache_folders() -> tuple[Path, ...]:
    """Return the folders of the downloads of `datasets` and of the hub."""
    from datasets import config
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(config.HF_CACHE_HOME), Path(config.HF_DATASETS_CACHE), Path(HF_HUB_CACHE)


def _load(source: Path, options: TableOptions) -> Mapping[str, Any]:
    """Return the splits of a dataset by name; their audio is not decoded."""
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("datasets", "datasets", "reading a dataset of Hugging Face") from error
    logging.getLogger("datasets").setLevel(logging.ERROR)
    is_saved = any((source / name).is_file() for name in _SAVED)
    if is_saved and (options.subset is not None or options.version is not None):
        raise ConfigError(f"'{source}' is a saved dataset: leave --subset and --version out")
    try:
        if is_saved:
            loaded = datasets.load_from_disk(str(source))
        else:
            loaded = datasets.load_dataset(source.as_posix(), options.subset, revision=options.version)
    except Exception as error:  # the hub, the disk and the formats of files raise errors of many kinds
        raise CorpusError(
            f"dataset '{source}' cannot be loaded: {' '.join(str(error).split())}; expected an id of "
            "the hub, or a folder of save_to_disk"
        ) from error
    parts = dict(loaded) if isinstance(loaded, dict) else {str(loaded.split or "data"): loaded}
    for split, part in parts.items():
        for name, feature in part.features.items():
            if isinstance(feature, datasets.Audio):
                part = part.cast_column(name, datasets.Audio(decode=False))
        parts[split] = part
    return parts


def _audio_column(source: Path, parts: Mapping[str, Any]) -> str:
    features = next(iter(parts.values())).features
    found = [name for name, feature in features.items() if type(feature).__name__ == "Audio"]
    if not found:
        raise CorpusError(
            f"dataset '{source}' has no column of audio (it has {list(features)}); name a column of paths: "
            "--columns path=…"
        )
    return str(found[0])


def _rows(part: Any) -> Iterator[Row]:
    """Yield the rows with the names of classes in place of their numbers; -1 stands for no class."""
    classes = {name: feature.names for name, feature in part.features.items() if hasattr(feature, "names")}
    for item in part:
        row = dict(item)
        for name, names in classes.items():
            value = row[name]
            row[name] = None if value is None or value < 0 else names[value]
        yield row


def _bytes_files(
    rows: Mapping[int, Row],
    found: Mapping[int, _Bytes],
    column: str,
    places: Mapping[int, str],
    audio_out: Path | None,
) -> dict[str, Callable[[Path], None]]:
    """Let the rows with bytes name files in `audio_out`, and return what writes each file.

    The folder has a folder for each split, and files keep their names where these differ.
    """
    unwritten: dict[str, Callable[[Path], None]] = {}
    taken: set[str] = set()
    for number, (name, write) in found.items():
        if audio_out is None:
            raise ConfigError(
                f"{places[number]}: the dataset holds its audio as bytes: name a folder to write it to, "
                "--audio-out DIR"
            )
        split, stem = (file_stem(text) for text in (str(rows[number][SPLIT]), Path(name).stem))
        suffix = Path(name).suffix
        target = audio_out.absolute() / split / f"{stem}{suffix if _SUFFIX.fullmatch(suffix) else ''}"
        count = 1
        while str(target).casefold() in taken:
            count += 1
            target = target.with_name(f"{stem}-{count}{target.suffix}")
        taken.add(str(target).casefold())
        rows[number][column] = str(target)
        unwritten[str(target)] = write
    return unwritten


def _suffix(data: bytes) -> str:
    return next((suffix for head, suffix in _SUFFIXES.items() if data.startswith(head)), ".wav")


def _write_bytes(part: Any, index: int, column: str, path: Path) -> None:
    path.write_bytes(part[index][column]["bytes"])


DATASETS = TableReader("datasets", read, options=("audio_out", "subset", "version", "root"))
