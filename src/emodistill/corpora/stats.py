"""Counts of a corpus: utterances by speaker and emotion, and hours; also as a picture."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from emodistill.corpora.base import Corpus, audio_duration_s
from emodistill.errors import CorpusError, MissingExtraError


@dataclass(frozen=True)
class Stats:
    """The counts of a corpus."""

    num_utterances: int
    num_speakers: int
    hours: float  # of audio
    emotions: tuple[str, ...]  # "none" is last, if utterances have no agreed emotion
    by_speaker: dict[str, Counter[str]]  # speaker -> emotion -> number of utterances
    minutes: dict[str, float]  # speaker -> minutes of audio


def corpus_stats(corpus: Corpus) -> Stats:
    """Count a corpus. Only the headers of its audio are read. Raises `CorpusError` for bad audio."""
    by_speaker = {speaker: Counter[str]() for speaker in corpus.speakers}
    seconds = dict.fromkeys(corpus.speakers, 0.0)
    for utterance in corpus:
        by_speaker[utterance.speaker][utterance.emotion or "none"] += 1
        seconds[utterance.speaker] += audio_duration_s(utterance)
    unlabelled = ("none",) if any(utterance.emotion is None for utterance in corpus) else ()
    return Stats(
        num_utterances=len(corpus),
        num_speakers=len(corpus.speakers),
        hours=sum(seconds.values()) / 3600,
        emotions=(*corpus.labels.names, *unlabelled),
        by_speaker=by_speaker,
        minutes={speaker: value / 60 for speaker, value in seconds.items()},
    )


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
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
