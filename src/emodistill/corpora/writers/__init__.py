"""Corpora as folders for other programs: the registry of formats, and `write_corpus`.

Every module of this package, except `base`, describes one format in a constant `WRITER`. The registry finds
these modules by itself, so a new format is one new file (docs/extending.md).
"""

import os
import shutil
from collections.abc import Collection, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from emodistill.console import with_progress
from emodistill.corpora.audio_folders import remember_folders
from emodistill.corpora.base import Corpus
from emodistill.corpora.writers.base import CorpusWriter
from emodistill.errors import ConfigError, CorpusError, one_of
from emodistill.files import ensure_not_read, move_file
from emodistill.partial_folders import atomic_folder, partial_folder

__all__ = ["WRITERS", "CorpusWriter", "check_output", "write_corpus"]

AUDIO_FOLDER = "audio"  # of the copied recordings


def _find_writers() -> dict[str, CorpusWriter]:
    names = sorted(info.name for info in iter_modules(__path__) if info.name != "base")
    writers = [import_module(f"{__name__}.{name}").WRITER for name in names]
    return {writer.name: writer for writer in writers}


WRITERS: Mapping[str, CorpusWriter] = _find_writers()


def check_output(name: str, folder: Path, *, copy_audio: bool | None = None, force: bool = False) -> None:
    """Check a format and the folder to write before any work starts.

    Raises:
        ConfigError: an unknown format, a folder that is a file or has something in it without `force`, or a
            format whose recordings must be copied with `copy_audio` False.
        MissingExtraError: the format needs a package that is not installed.
    """
    if name not in WRITERS:
        raise ConfigError(one_of("format of a corpus", name, WRITERS))
    if copy_audio is False and WRITERS[name].needs_copies:
        raise ConfigError(f"the format {name} needs its recordings in its folder: leave --no-copy-audio out")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"'{folder}' is a file, expected a new folder")
    if not force and folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(
            f"'{folder}' has files, expected a new or an empty folder: choose another one, or add --force to "
            "replace files of the same names"
        )
    if (check := WRITERS[name].check) is not None:
        check()


def write_corpus(
    corpus: Corpus,
    name: str,
    folder: Path,
    *,
    copy_audio: bool | None = None,
    force: bool = False,
    inputs: Iterable[Path] = (),
) -> None:
    """Write a corpus into a folder, in a format of `WRITERS`.

    The files are written beside the folder first, and are moved into it when all of them are complete. If
    the folder has files, those with other names stay, but for tables of the same format.

    Args:
        corpus: its recordings must exist.
        name: the name of the format.
        folder: the folder to write.
        copy_audio: whether the recordings are copied into the folder. None: as the format usually does.
        force: write into a folder that has files.
        inputs: files that must not be replaced, beside the recordings.

    Raises:
        ConfigError: as `check_output`, or the folder holds files that the command reads.
        CorpusError: an utterance that the format cannot hold, such as one without a recording.
    """
    check_output(name, folder, copy_audio=copy_audio, force=force)
    writer = WRITERS[name]
    for utterance in corpus:
        if utterance.path is None and writer.needs_audio:
            raise CorpusError(f"'{utterance.id}' has no recording, which the format {name} needs")
    inputs = [*inputs, *(utterance.path for utterance in corpus if utterance.path is not None)]
    recordings = {} if writer.places_audio else {item.path: None for item in corpus if item.path is not None}
    copies = writer.copies_audio if copy_audio is None else copy_audio
    names = _names_of_copies(recordings) if copies else {path: str(_absolute(path)) for path in recordings}
    folder = _absolute(folder)
    if not copies:
        remember_folders([path.resolve() for path in recordings], folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    is_new = not folder.is_dir() or not any(folder.iterdir())
    with atomic_folder(folder) if is_new else partial_folder(folder) as partial:
        writer.write(corpus, partial, names)
        for source in with_progress(recordings, "copy recordings", len(recordings)) if copies else ():
            target = partial / names[source]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        if not is_new:
            _move_files(partial, folder, inputs, writer.tables)


def _names_of_copies(recordings: Collection[Path]) -> dict[Path, str]:
    """Return the path of each copy, relative to the folder of the corpus, with slashes.

    Recordings keep the folders below the deepest one that holds all of them.
    """
    absolute = {path: _absolute(path) for path in recordings}
    if not absolute:
        return {}
    common = os.path.commonpath([path.parent for path in absolute.values()])
    return {path: f"{AUDIO_FOLDER}/{full.relative_to(common).as_posix()}" for path, full in absolute.items()}


def _absolute(path: Path) -> Path:
    """Return an absolute path. A link to a recording stays, because its target may have another suffix."""
    return path.parent.resolve() / path.name if path.name else path.resolve()


def _move_files(partial: Path, folder: Path, inputs: Iterable[Path], tables: Iterable[str]) -> None:
    """Move all files of `partial` to the same places in `folder`. Tables come after the recordings.

    Those of `tables` that `partial` does not have are removed from `folder`.
    Raises `ConfigError` where one of `inputs` would be replaced. Then nothing is moved.
    """
    files = [path for path in partial.rglob("*") if path.is_file()]
    targets = {path: folder / path.relative_to(partial) for path in files}
    stale = [folder / name for name in tables if not (partial / name).exists()]
    ensure_not_read([*targets.values(), *stale], inputs)
    for path in sorted(files, key=lambda path: len(path.parts), reverse=True):
        targets[path].parent.mkdir(parents=True, exist_ok=True)
        move_file(path, targets[path])
    for path in stale:
        path.unlink(missing_ok=True)
