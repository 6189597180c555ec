"""`CorpusWriter`, which each module of this package defines once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from emodistill.corpora.base import Corpus


@dataclass(frozen=True)
class CorpusWriter:
    """A format in which a corpus can be written for other programs.

    Attributes:
        name: the value of `--to`.
        write: writes the files of a corpus into an empty folder. Its third argument says which text names a
            recording in these files: {`Utterance.path`: text}. The text is a path relative to the folder
            where the recordings are copied, and an absolute path where they stay.
        copies_audio: the recordings are copied into the folder, unless the user says otherwise.
        needs_copies: other programs find the recordings only inside of the folder.
        needs_audio: each utterance needs a recording.
        places_audio: `write` writes the audio itself, into the places that the format prescribes. Then its
            third argument is empty.
        tables: paths of all tables that `write` may write, relative to the folder. Those of an earlier corpus
            in the same folder are removed, since they would be read with the new ones.
        check: raises `MissingExtraError` if the writer needs a package that is missing; None: it needs none.
    """

    name: str
    write: Callable[[Corpus, Path, Mapping[Path, str]], None]
    copies_audio: bool = True
    needs_copies: bool = False
    needs_audio: bool = True
    places_audio: bool = False
    tables: tuple[str, ...] = ()
    check: Callable[[], None] | None = None
