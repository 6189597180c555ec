"""Corpora: readers of distribution folders, manifests, and the corpus that a recipe names."""

from emodistill.corpora.base import Corpus, Utterance, drop_bad_audio
from emodistill.corpora.load import open_corpus, read_corpus
from emodistill.corpora.manifest import read_manifest, write_manifest
from emodistill.corpora.readers import READERS

__all__ = [
    "READERS", "Corpus", "Utterance", "drop_bad_audio", "open_corpus", "read_corpus", "read_manifest", "write_manifest",
]  # fmt: skip
