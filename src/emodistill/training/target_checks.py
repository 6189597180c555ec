"""Checks of what a training learns from: labels, votes and the times of words. It imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from emodistill.config import Recipe
from emodistill.console import say
from emodistill.corpora.base import Corpus, Utterance, vote_distribution
from emodistill.errors import ConfigError, ModelError
from emodistill.labels import LabelSet
from emodistill.protocol.audit import audit_teacher
from emodistill.protocol.folds import SPLITS, Fold
from emodistill.reading import read_json

_LEAST = {"train": 2, "dev": 2, "test": 1}  # labels of a dimension: CCC needs two utterances


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


def usable_voted(
    voted: Sequence[Utterance], train: Sequence[Utterance], held_out: Sequence[Utterance], kind: str
) -> tuple[Utterance, ...]:
    """Return the utterances with votes alone that a fold may train on.

    They are of no held-out speaker, and of no session or corpus that is held out as a whole. With `kind`
    "published" the corpus itself places them in training.

    Args:
        voted: those of `without_voted`.
        train: the training split of the fold.
        held_out: its dev and test splits.
        kind: that of the protocol.
    """
    speakers = {item.speaker for item in held_out}
    sessions = {item.session for item in held_out} - {item.session for item in train}
    corpora = {item.corpus for item in held_out} - {item.corpus for item in train}
    return tuple(
        item
        for item in voted
        if item.speaker not in speakers
        and item.session not in sessions
        and item.corpus not in corpora
        and (kind != "published" or item.split == "train")
    )


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


def check_labels(recipe: Recipe, fold: Fold, by_id: Mapping[str, Utterance]) -> None:
    """Raise `ConfigError` where a split of a fold lacks labels of a target that the recipe asks for.

    Raises `CorpusError` as `Utterance.unit_dimensions` does.
    """
    reads_text = recipe.main_model == "linguistic"
    for split in SPLITS:
        names = fold.split(split)
        items = [by_id[name] for name in names]
        items = [item for item in items if (item.transcript if reads_text else item.path)]
        if not items:
            continue
        where = f"fold {fold.name}: {split}"
        if recipe.has_emotions and all(item.emotion is None for item in items):
            raise ConfigError(
                f"{where} has no utterance with an emotion: choose other folds in [protocol], or leave "
                "emotion out of targets"
            )
        labelled = [item.unit_dimensions() for item in items] if recipe.dimensions else []
        for dimension in recipe.dimensions:
            count = sum(dimension in values for values in labelled)
            if count < _LEAST[split]:
                raise ConfigError(
                    f"{where} has {count} utterance{'s' * (count != 1)} with a label of {dimension}, "
                    f"expected at least {_LEAST[split]}: choose other folds in [protocol], or leave "
                    f"{dimension} out of targets"
                )


def check_acoustic_run(recipe: Recipe, fold: Fold, emotions: tuple[str, ...]) -> None:
    """Raise `ConfigError` where `acoustic.run` has no student for a fold, or one with other labels.

    Raises `LeakError` where it was trained on a held-out utterance.
    """
    phases = ("select", "refit") if recipe.protocol.refit is True else ("select",)
    for phase in phases:
        folder = Path(recipe.acoustic.run or "") / f"fold-{fold.name}" / phase / "student"
        if not (folder / "model.json").is_file():
            problem = "" if Path(recipe.acoustic.run or "").is_dir() else "; there is no such run folder"
            raise ConfigError(
                f"acoustic.run = '{recipe.acoustic.run}': fold {fold.name} has no trained student in "
                f"'{folder}'{problem}; finish that run first, or set acoustic.run to another"
            )
        description = read_json(folder / "model.json", ModelError, "is no description of a checkpoint")
        if recipe.has_emotions and sorted(description["emotions"]) != sorted(emotions):
            raise ConfigError(
                f"acoustic.run: '{folder}' has the emotions {description['emotions']}, expected those of "
                f"this run, {list(emotions)}: set acoustic.run to a run with the same emotions"
            )
        if recipe.dimensions and description.get("dimensions", []) != list(recipe.dimensions):
            raise ConfigError(
                f"acoustic.run: '{folder}' predicts the dimensions {description.get('dimensions', [])}, "
                f"expected those of targets, {list(recipe.dimensions)}: set acoustic.run to a run with them, "
                "or unset it"
            )
        held_out = fold.test if phase == "refit" else (*fold.dev, *fold.test)
        audit_teacher(description["training_ids"], held_out, "acoustic")
