"""A folder that can be moved: `utterances.csv`, with the recordings in `audio/`."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from emodistill.corpora.base import Corpus
from emodistill.corpora.manifest import write_manifest
from emodistill.corpora.writers.base import CorpusWriter


def write(corpus: Corpus, folder: Path, audio: Mapping[Path, str]) -> None:
    """Write `utterances.csv` into a folder. `audio` names each recording, see `CorpusWriter`."""
    utterances = tuple(
        item if item.path is None else replace(item, path=folder / audio[item.path]) for item in corpus
    )
    write_manifest(replace(corpus, utterances=utterances), folder / "utterances.csv")


WRITER = CorpusWriter("csv", write, needs_audio=False)
