"""Read the corpus that a recipe names: relabel it, add transcripts, and leave out bad audio."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from emodistill.config import CorpusConfig
from emodistill.corpora.base import Corpus, drop_bad_audio
from emodistill.corpora.manifest import read_manifest, table_rows
from emodistill.corpora.readers import READERS
from emodistill.errors import ConfigError, CorpusError, one_of
from emodistill.labels import EMOTIONS, LABEL_MAPS, LabelMap, get_label_map


def read_corpus(
    name: str, root: Path, labels: str | None = None, emotions: Mapping[str, str] | None = None
) -> Corpus:
    """Read a corpus from the folder that its authors distribute, and apply a label map.

    Args:
        name: the name of a reader, such as "ravdess".
        root: the corpus's folder.
        labels: the name of a map in `emodistill.labels`, a list such as "angry,sad", or "all". "all" keeps
            even utterances without an agreed emotion. None: the default of the reader.
        emotions: renames emotions of the corpus before the label map is applied: {emotion: other emotion}.

    Raises:
        CorpusError: an unknown corpus or emotion, or a folder that the reader cannot read.
        ConfigError: an unknown label map.
    """
    if name not in READERS:
        raise CorpusError(one_of("corpus", name, READERS))
    corpus = READERS[name].read(Path(root))
    for emotion in [*(emotions or {}), *(emotions or {}).values()]:
        if emotion not in EMOTIONS:
            raise CorpusError("corpus.emotions: " + one_of("emotion", emotion, EMOTIONS))
    if emotions:
        corpus = corpus.relabel(LabelMap("declared", emotions))
    labels = labels or READERS[name].default_labels
    return corpus if labels == "all" else corpus.relabel(get_label_map(labels))


def open_corpus(config: CorpusConfig, report: Callable[[str], None]) -> Corpus:
    """Read the corpus of a recipe; its utterances all have an emotion and readable audio (or none).

    `report` gets one message for each utterance or group of utterances that is left out or merged. Raises
    `ConfigError` where the recipe names no data, or both a folder and a manifest. Raises `CorpusError` where
    the data cannot be read.
    """
    if config.root is not None and config.manifest is not None:
        raise ConfigError(
            f"the recipe names two corpora, corpus.root = '{config.root}' and corpus.manifest = "
            f"'{config.manifest}', expected one: add --set corpus.manifest=none to read the folder, or "
            "--set corpus.root=none to read the manifest"
        )
    corpus = _read(config).relabel(LABEL_MAPS["own"])  # training needs an emotion for each utterance
    if config.transcripts is not None:
        corpus = add_transcripts(corpus, Path(config.transcripts))
    corpus, problems = drop_bad_audio(corpus)
    report_left_out(corpus, problems, report)
    return corpus


def _read(config: CorpusConfig) -> Corpus:
    if config.manifest is not None:
        corpus = read_manifest(Path(config.manifest), config.columns, config.name, config.emotions)
        return corpus if config.labels in (None, "all") else corpus.relabel(get_label_map(config.labels))
    if config.pool and config.root is not None:
        parts = [
            read_corpus(name, _folder_in_pool(Path(config.root), name), config.labels, config.emotions)
            for name in config.pool
        ]
        return pool_corpora(config.name, parts)
    packaged = READERS[config.name].packaged if config.name in READERS and not config.pool else None
    root = config.root or packaged
    if root is None:
        raise ConfigError(
            f"the recipe names no data for '{config.name}': --set corpus.root=DIR for a known corpus "
            f"({', '.join(READERS)}), or --set corpus.manifest=utterances.csv"
        )
    return read_corpus(config.name, Path(root), config.labels, config.emotions)


def _folder_in_pool(root: Path, name: str) -> Path:
    """Return the folder of a pooled corpus: `crema-d` below `root`, or `crema_d` if only that exists."""
    folder, with_underscores = root / name, root / name.replace("-", "_")
    return with_underscores if with_underscores.is_dir() and not folder.is_dir() else folder


def pool_corpora(name: str, parts: Sequence[Corpus]) -> Corpus:
    """Return several corpora as one.

    Ids, speakers and sessions get the name of their corpus as a prefix: speaker `ravdess/7` is not `ased/7`.
    """
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
    dropped = {f"{part.name}: {reason}": count for part in parts for reason, count in part.dropped.items()}
    merged = {f"{part.name}: {change}": count for part in parts for change, count in part.merged.items()}
    return Corpus(name, utterances, dropped, merged)


def report_left_out(corpus: Corpus, problems: Sequence[str], report: Callable[[str], None]) -> None:
    """Report each utterance with bad audio, then how many utterances were merged and dropped, and why."""
    for problem in problems:
        report(f"left out: {problem}")
    for action, counts in (("merged", corpus.merged), ("dropped", corpus.dropped)):
        for reason, count in counts.items():
            report(f"{action}: {count} × {reason}")


def add_transcripts(corpus: Corpus, path: Path) -> Corpus:
    """Return the corpus with transcripts from a CSV that has the columns id, transcript and source.

    Raises `CorpusError` for a missing file or column, and for an id that the corpus lacks.
    """
    if not path.is_file():
        raise CorpusError(f"no transcripts '{path}'; expected a CSV with columns id, transcript, source")
    rows = table_rows(path, "transcripts", ("id", "transcript", "source"))
    transcripts = {row["id"]: (row["transcript"].strip() or None, row["source"]) for _, row in rows}
    unknown = sorted(transcripts.keys() - {utterance.id for utterance in corpus})
    if unknown:
        raise CorpusError(
            f"'{path}' has {len(unknown)} ids that '{corpus.name}' lacks, such as '{unknown[0]}'"
        )
    utterances = []
    for utterance in corpus:
        if utterance.id in transcripts:
            transcript, source = transcripts[utterance.id]
            utterance = replace(utterance, transcript=transcript, transcript_source=source)
        utterances.append(utterance)
    return replace(corpus, utterances=tuple(utterances))
