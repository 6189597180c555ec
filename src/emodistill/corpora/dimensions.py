"""The dimensions of a corpus that a recipe names: their scale, and the utterances that have them."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from emodistill.corpora.base import Corpus
from emodistill.errors import ConfigError, CorpusError
from emodistill.labels import DIMENSIONS, Scale, scale_text


def with_scale(corpus: Corpus, scale: Scale | None, report: Callable[[str], None]) -> Corpus:
    """Return the corpus with a scale for utterances that have dimensions, but no scale of their own.

    `report` gets the number of utterances whose own scale differs. They keep it.
    """
    if scale is None:
        return corpus
    rated = [u for u in corpus if u.dimensions()]
    for own, count in Counter(u.scale for u in rated if u.scale not in (None, scale)).items():
        report(
            f"corpus.scale = {scale_text(scale)} is not used for {count} utterances of '{corpus.name}', "
            f"which declare {scale_text(own or scale)}"
        )
    lacking = {u.id for u in rated if u.scale is None}
    return replace(
        corpus, utterances=tuple(replace(u, scale=scale) if u.id in lacking else u for u in corpus)
    )


def check_dimensions(corpus: Corpus, targets: Sequence[str], manifest: str | None) -> None:
    """Check the dimensions of a corpus, for a recipe whose `targets` ask for some.

    Raises `ConfigError` where no utterance has one of them, and `CorpusError` where an utterance has a
    dimension without a scale, or outside of it. `manifest` is the file that messages name.
    """
    counts = Counter(name for utterance in corpus for name in utterance.dimensions())
    for name in targets:
        if name in DIMENSIONS and not counts[name]:
            found = ", ".join(f"{name} ({counts[name]})" for name in DIMENSIONS if counts[name]) or "none"
            raise ConfigError(
                f"no utterance of '{corpus.name}' has {name}, which targets asks for; its utterances have "
                f"these dimensions: {found}; change targets, or name the column (corpus.columns)"
            )
    for utterance in corpus:
        try:
            utterance.unit_dimensions()
        except CorpusError as error:
            row = corpus.rows.get(utterance.id)
            where = f"corpus '{corpus.name}'" if row is None else f"'{manifest}', row {row}"
            raise CorpusError(f"{where}: {error}") from error


def with_a_target(corpus: Corpus, targets: Sequence[str], keep_voted: bool = False) -> Corpus:
    """Return the utterances that have one of the targets: "emotion", or a dimension.

    With `keep_voted` they may have votes and no emotion instead. Without "emotion" in `targets` they lose
    their emotions and votes.
    """
    has_emotions = "emotion" in targets
    kept = tuple(
        utterance if has_emotions else replace(utterance, emotion=None, votes=None)
        for utterance in corpus
        if (has_emotions and utterance.emotion is not None)
        or not utterance.dimensions().keys().isdisjoint(targets)
        or (keep_voted and utterance.emotion is None and utterance.votes is not None)
    )
    dropped = dict(corpus.dropped)
    if len(kept) < len(corpus):
        dropped[f"no {' and no '.join(targets)}"] = len(corpus) - len(kept)
    return replace(corpus, utterances=kept, dropped=dropped)
