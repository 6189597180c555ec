"""Counts of a corpus: utterances by speaker and emotion, and hours; also as a picture."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from emodistill.console import with_progress
from emodistill.corpora.base import Corpus, audio_duration_s
from emodistill.errors import CorpusError, MissingExtraError
from emodistill.files import atomic_write
from emodistill.labels import DIMENSIONS, Scale

_MOST_VALUES = 6  # of a column of the corpus that has columns in a table of counts
_SPLITS = {"train": 0, "dev": 1, "test": 2}


@dataclass(frozen=True)
class DimensionStats:
    """One dimension of a corpus in its own units; utterances of another scale have an entry of their own."""

    name: str
    scale: Scale | None  # None: the utterances have no scale
    num_utterances: int
    mean: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class Stats:
    """The counts of a corpus."""

    num_utterances: int
    num_speakers: int
    hours: float  # of audio
    emotions: tuple[str, ...]  # "none" is last, if utterances have no agreed emotion
    by_speaker: dict[str, Counter[str]]  # speaker -> emotion -> number of utterances
    minutes: dict[str, float]  # speaker -> minutes of audio
    num_unmeasured: int = 0  # utterances whose audio is missing or broken: their length is not known
    dimensions: tuple[DimensionStats, ...] = ()


def corpus_stats(corpus: Corpus) -> Stats:
    """Count a corpus. The headers of audio without `duration_s` are read."""
    by_speaker = {speaker: Counter[str]() for speaker in corpus.speakers}
    seconds = dict.fromkeys(corpus.speakers, 0.0)
    num_unmeasured = 0
    for utterance in with_progress(corpus, "read audio headers", len(corpus)):
        by_speaker[utterance.speaker][utterance.emotion or "none"] += 1
        try:
            seconds[utterance.speaker] += audio_duration_s(utterance)
        except CorpusError:
            num_unmeasured += 1
    unlabelled = ("none",) if any(utterance.emotion is None for utterance in corpus) else ()
    return Stats(
        num_utterances=len(corpus),
        num_speakers=len(corpus.speakers),
        hours=sum(seconds.values()) / 3600,
        emotions=(*corpus.labels.names, *unlabelled),
        by_speaker=by_speaker,
        minutes={speaker: value / 60 for speaker, value in seconds.items()},
        num_unmeasured=num_unmeasured,
        dimensions=_dimension_stats(corpus),
    )


def _dimension_stats(corpus: Corpus) -> tuple[DimensionStats, ...]:
    values: dict[tuple[str, Scale | None], list[float]] = {}
    for utterance in corpus:
        for name, value in utterance.dimensions().items():
            values.setdefault((name, utterance.scale), []).append(value)
    order = sorted(values, key=lambda key: (DIMENSIONS.index(key[0]), key[1] is None, key[1] or ()))
    return tuple(
        DimensionStats(name, scale, len(found), sum(found) / len(found), min(found), max(found))
        for name, scale in order
        for found in [values[name, scale]]
    )


def emotion_table(corpus: Corpus) -> tuple[list[str], list[list[str]]]:
    """Count a corpus by emotion: the titles of columns, and a row for each emotion; the last is of all.

    The columns are utterances, speakers and minutes, then utterances by split, gender and language where the
    corpus tells them apart. Minutes are the sum of `duration_s`; "–" without any.
    """
    facets = [
        (value or f"no {name}", [(utterance.id, getattr(utterance, name) == value) for utterance in corpus])
        for name in ("split", "gender", "language")
        for value in _values(corpus, name)
    ]
    names = [*corpus.labels.names, *(["none"] if any(u.emotion is None for u in corpus) else [])]
    rows: list[list[str]] = []
    for name in [*names, "all"]:
        items = [u for u in corpus if name == "all" or (u.emotion or "none") == name]
        ids = {u.id for u in items}
        durations_s = [u.duration_s for u in items if u.duration_s is not None]
        minutes = f"{sum(durations_s) / 60:.1f}" if durations_s else "–"
        counts = [sum(is_so for id, is_so in flags if id in ids) for _, flags in facets]
        rows.append(
            [
                name,
                *map(str, (len(items), len({u.speaker for u in items}))),
                minutes,
                *map(str, counts),
            ]
        )
    return ["emotion", "utterances", "speakers", "minutes", *(title for title, _ in facets)], rows


def _values(corpus: Corpus, name: str) -> list[str | None]:
    """Return the values of a column that divide a corpus, train before dev before test; None is last."""
    found: set[str | None] = {getattr(utterance, name) for utterance in corpus}
    values = sorted((value for value in found if value), key=lambda value: (_SPLITS.get(value, 3), value))
    if len(values) < (1 if name == "split" else 2) or len(values) > _MOST_VALUES:
        return []
    return [*values, *([None] if None in found else [])]


def plot_stats(stats: Stats, path: Path) -> None:
    """Draw a bar for each speaker, stacked by emotion, into a .png, .svg or .pdf file.

    The folder of `path` is created. Raises `CorpusError` for another suffix, and `MissingExtraError` without
    matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plot") from error
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise CorpusError(f"cannot draw to '{path}': expected .png, .svg or .pdf")
    figure = Figure(figsize=(max(6.0, 0.32 * stats.num_speakers + 3), 4.5), layout="constrained")
    axes = figure.subplots()
    speakers = list(stats.by_speaker)
    bottom = [0] * len(speakers)
    for emotion in stats.emotions:
        counts = [stats.by_speaker[speaker][emotion] for speaker in speakers]
        axes.bar(speakers, counts, bottom=bottom, label=f"{emotion} ({sum(counts)})", width=0.8)
        bottom = [below + count for below, count in zip(bottom, counts, strict=True)]
    axes.set_xlabel("speaker")
    axes.set_ylabel("utterances")
    axes.set_title(f"{stats.num_utterances} utterances, {stats.num_speakers} speakers, {stats.hours:.2f} h")
    axes.tick_params(axis="x", rotation=90 if len(speakers) > 12 else 0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.01)
    figure.legend(loc="outside right upper", frameon=False)
    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=150)
