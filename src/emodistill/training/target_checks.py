"""Checks of the targets of a training: listeners' votes and the times of words. It imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from emodistill.config import Recipe
from emodistill.console import say
from emodistill.corpora.base import Corpus, Utterance, vote_distribution
from emodistill.errors import ConfigError
from emodistill.labels import LabelSet
from emodistill.protocol.folds import Fold


def without_voted(corpus: Corpus, dimensions: Sequence[str]) -> tuple[Corpus, tuple[Utterance, ...]]:
    """Return the utterances with a label, and those with votes alone that are for emotions of the corpus.

    A label is an emotion, or one of `dimensions`.
    """

    def has_label(utterance: Utterance) -> bool:
        has_dimension = any(getattr(utterance, name) is not None for name in dimensions)
        return utterance.emotion is not None or has_dimension

    labelled = tuple(filter(has_label, corpus))
    if len(labelled) == len(corpus):
        return corpus, ()
    if not labelled:
        raise ConfigError(
            f"no utterance of '{corpus.name}' has an emotion, only votes. The scores need labels: leave the "
            "column emotion out, so that each utterance has the emotion with most votes"
        )
    corpus_labels = replace(corpus, utterances=labelled).labels
    voted = tuple(
        utterance
        for utterance in corpus
        if not has_label(utterance) and vote_distribution(utterance.vote_counts(), corpus_labels)
    )
    say(f"{len(voted)} utterances have votes and no label: they are in training alone")
    return replace(corpus, utterances=labelled), voted


def check_votes(recipe: Recipe, fold: Fold, by_id: Mapping[str, Utterance], labels: LabelSet) -> None:
    """Raise `ConfigError` where a model learns from votes, but no training utterance has a usable one."""
    for name, optim in recipe.optims.items():
        if optim.targets != "votes":
            continue
        if not any(vote_distribution(by_id[item].vote_counts(), labels) for item in fold.train):
            section = "acoustic.student" if name == "acoustic" else name
            raise ConfigError(
                f"{section}.optim.targets = 'votes', but no training utterance of fold {fold.name} has votes "
                f"for {', '.join(labels)}: give votes in the column votes of a manifest, or set "
                f"{section}.optim.targets = 'label'"
            )


def check_words(recipe: Recipe, fold: Fold, by_id: Mapping[str, Utterance]) -> None:
    """Raise `ConfigError` where the word level is on, but training has no times of words."""
    settings = recipe.distillation
    if "linguistic" not in settings.teachers or not (settings.words or settings.word_contrast):
        return
    if not any(by_id[name].words for name in fold.train):
        raise ConfigError(
            f"the word level needs the times of words, and no training utterance of fold {fold.name} has "
            "any: set corpus.words, or set distillation.words and distillation.word_contrast to 0"
        )
