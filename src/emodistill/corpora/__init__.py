"""Corpora: one reader for each known corpus, manifests, and the corpus that a recipe names."""

from emodistill.corpora.base import Corpus, Reader, Utterance, Word, audio_duration_s, drop_bad_audio
from emodistill.corpora.load import (
    add_transcripts,
    find_audio,
    open_corpus,
    open_further,
    pool_corpora,
    read_corpus,
    read_own_table,
    report_left_out,
)
from emodistill.corpora.manifest import read_manifest, write_manifest
from emodistill.corpora.readers import READERS, TABLE_READERS
from emodistill.corpora.readers.demo import DEMO_CORPUS
from emodistill.corpora.sources import data_sources
from emodistill.corpora.stats import DimensionStats, Stats, corpus_stats, emotion_table, plot_stats
from emodistill.corpora.tables import TableOptions

__all__ = [
    "DEMO_CORPUS",
    "READERS",
    "TABLE_READERS",
    "Corpus",
    "DimensionStats",
    "Reader",
    "Stats",
    "TableOptions",
    "Utterance",
    "Word",
    "add_transcripts",
    "audio_duration_s",
    "corpus_stats",
    "data_sources",
    "drop_bad_audio",
    "emotion_table",
    "find_audio",
    "open_corpus",
    "open_further",
    "plot_stats",
    "pool_corpora",
    "read_corpus",
    "read_manifest",
    "read_own_table",
    "report_left_out",
    "write_manifest",
]
