"""The corpus that a recipe names: read, relabelled, completed with transcripts, and checked."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from emodistill.config import CorpusConfig
from emodistill.corpora.base import Corpus, drop_bad_audio
from emodistill.corpora.manifest import read_manifest, table_rows
from emodistill.corpora.readers import READERS
from emodistill.errors import ConfigError, CorpusError, one_of
from emodistill.labels import EMOTIONS, LABEL_MAPS, LabelMap, label_map

DEMO_CORPUS = Path(str(files("emodistill"))) / "demo" / "corpus"  # comes with the package

# Every corpus keeps its own classes unless it is listed here.
_DEFAULT_LABELS = {"iemocap": "iemocap-4"}


def read_corpus(
    name: str, root: Path, labels: str | None = None, emotions: Mapping[str, str] | None = None
) -> Corpus:
    """Read a corpus from its distribution folder and apply a label map.

    `labels` is the name of a map in `emodistill.labels`, a list such as "angry,sad", or "all", which
    keeps even utterances without an agreed emotion. `emotions` says before that what some of the corpus's emotions
    count as. Raises `CorpusError` for an unknown corpus or emotion.
    """
    if name not in READERS:
        raise CorpusError(one_of("corpus", name, READERS))
    corpus = READERS[name](Path(root))
    for emotion in [*(emotions or {}), *(emotions or {}).values()]:
        if emotion not in EMOTIONS:
            raise CorpusError("corpus.emotions: " + one_of("emotion", emotion, EMOTIONS))
    if emotions:
        corpus = corpus.relabel(LabelMap("declared", emotions))
    chosen = labels or _DEFAULT_LABELS.get(name, "own")
    return corpus if chosen == "all" else corpus.relabel(label_map(chosen))


def open_corpus(config: CorpusConfig, say: Callable[[str], None]) -> Corpus:
    """Read the corpus of a recipe; whatever is left out, dropped or merged is told to `say`."""
    if config.manifest is None and config.root is None and config.name == "demo":
        corpus = read_manifest(DEMO_CORPUS / "utterances.csv", name="demo")
    elif config.manifest is not None:
        corpus = read_manifest(Path(config.manifest), config.columns, config.name, config.emotions)
        if config.labels not in (None, "all"):
            corpus = corpus.relabel(label_map(config.labels))
    elif config.pool and config.root is not None:
        parts = [
            read_corpus(name, Path(config.root) / name, config.labels, config.emotions)
            for name in config.pool
        ]
        corpus = pool_corpora(config.name, parts)
    elif config.root is not None:
        corpus = read_corpus(config.name, Path(config.root), config.labels, config.emotions)
    else:
        raise ConfigError(
            f"the recipe names no data for '{config.name}': --set corpus.root=DIR for a known corpus "
            f"({', '.join(READERS)}), or --set corpus.manifest=utterances.csv"
        )
    corpus = corpus.relabel(LABEL_MAPS["own"])  # nothing can be learned without an emotion
    if config.transcripts is not None:
        corpus = add_transcripts(corpus, Path(config.transcripts))
    corpus, problems = drop_bad_audio(corpus)
    report_left_out(corpus, problems, say)
    return corpus


def pool_corpora(name: str, parts: Sequence[Corpus]) -> Corpus:
    """Several corpora as one. Ids, speakers and sessions are prefixed: `ravdess/7` is not `ased/7`."""
    utterances = tuple(
        replace(
            utterance,
            id=f"{part.name}/{utterance.id}",
            speaker=f"{part.name}/{utterance.speaker}",
            session=utterance.session and f"{part.name}/{utterance.session}",
            corpus=part.name,
        )
        for part in parts
        for utterance in part
    )
    counts = {"dropped": Counter[str](), "merged": Counter[str]()}
    for part in parts:
        for what, counter in counts.items():
            counter.update({f"{part.name}: {why}": count for why, count in getattr(part, what).items()})
    return Corpus(name, utterances, **counts)


def report_left_out(corpus: Corpus, problems: Sequence[str], say: Callable[[str], None]) -> None:
    """Each row left out for its audio, then how many were merged and dropped, and why."""
    for problem in problems:
        say(f"left out: {problem}")
    for what, counts in (("merged", corpus.merged), ("dropped", corpus.dropped)):
        for reason, count in counts.items():
            say(f"{what}: {count} × {reason}")


def add_transcripts(corpus: Corpus, path: Path) -> Corpus:
    """Take words from a CSV with columns id, transcript, source; ids that the corpus lacks are an error."""
    if not path.is_file():
        raise CorpusError(f"no transcripts '{path}'; expected a CSV with columns id, transcript, source")
    rows = table_rows(path, "transcripts", ("id", "transcript", "source"))
    words = {row["id"]: (row["transcript"].strip() or None, row["source"]) for _, row in rows}
    unknown = sorted(words.keys() - {utterance.id for utterance in corpus})
    if unknown:
        raise CorpusError(
            f"'{path}' has {len(unknown)} ids that '{corpus.name}' lacks, such as '{unknown[0]}'"
        )
    utterances = tuple(
        replace(u, transcript=words[u.id][0], transcript_source=words[u.id][1]) if u.id in words else u
        for u in corpus
    )
    return replace(corpus, utterances=utterances)
