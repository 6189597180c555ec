"""Run folders with predictions drawn at random: as `crossval` writes them, but without any training."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from emodistill.corpora import Corpus, Utterance
from emodistill.evaluation.dimension_predictions import DimensionPredictions, write_dimensions
from emodistill.evaluation.predictions import Predictions, write_predictions
from emodistill.evaluation.run import dimension_table_name, table_name, write_checksums, write_utterances
from emodistill.inference.model_card import file_sha256
from emodistill.labels import LabelSet
from emodistill.protocol.folds import Fold, Protocol

SEVEN = ("angry", "happy", "sad", "neutral", "fearful", "disgusted", "surprised")


def invented_corpus(
    emotions: Sequence[str] = SEVEN, speakers: int = 12, each: int = 4, dimensions: Sequence[str] = ()
) -> Corpus:
    """A corpus without audio: each speaker has `each` utterances of each emotion.

    Dimensions have drawn labels from 1 to 5. The first utterance of each speaker has none.
    """
    random = np.random.default_rng(0)

    def labels(emotion: str, take: int) -> dict[str, Any]:
        if not dimensions or (emotion == emotions[0] and not take):
            return {}
        drawn = random.integers(1, 6, size=len(dimensions))
        return {
            "scale": (1.0, 5.0),
            **{name: float(value) for name, value in zip(dimensions, drawn, strict=True)},
        }

    utterances = [
        Utterance(
            f"actor{speaker}-{emotion}-{take}", f"actor{speaker}", emotion,
            gender="male" if speaker % 2 else "female", language="en", corpus="ravdess",
            **labels(emotion, take),
        )
        for speaker in range(speakers)
        for emotion in emotions
        for take in range(each)
    ]  # fmt: skip
    return Corpus("ravdess", tuple(utterances))


def invented_folds(corpus: Corpus, count: int = 3) -> Protocol:
    """Folds by speaker; the dev speakers of a fold are the test speakers of the next one."""
    groups = [set(corpus.speakers[start::count]) for start in range(count)]
    folds = []
    for number, test in enumerate(groups):
        dev = groups[(number + 1) % count]
        splits = [
            tuple(item.id for item in corpus if item.speaker in speakers)
            for speakers in (set(corpus.speakers) - test - dev, dev, test)
        ]
        folds.append(Fold(str(number + 1), splits[0], splits[1], splits[2]))
    return Protocol(corpus.name, f"{count} folds of speakers", tuple(folds))


def invented_predictions(
    corpus: Corpus, ids: Sequence[str], fold: str, accuracy: float, random: np.random.Generator
) -> Predictions:
    """Predictions of some utterances, of which about the share `accuracy` is correct."""
    labels = LabelSet(corpus.labels.names)
    by_id = {item.id: item for item in corpus}
    truth = [str(by_id[name].emotion) for name in ids]
    logits = random.normal(size=(len(ids), len(labels)))
    chosen = np.array([labels.names.index(emotion) for emotion in truth])
    wrong = random.random(len(ids)) > accuracy
    chosen[wrong] = random.integers(len(labels), size=int(wrong.sum()))
    logits[np.arange(len(ids)), chosen] += 6
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    speakers = tuple(by_id[name].speaker for name in ids)
    return Predictions(labels, tuple(ids), (fold,) * len(ids), speakers, tuple(truth), probabilities)


def invented_dimensions(
    corpus: Corpus,
    ids: Sequence[str],
    fold: str,
    noise: float,
    random: np.random.Generator,
    names: Sequence[str],
) -> DimensionPredictions:
    """Predictions of some utterances, which are their labels with noise of this standard deviation."""
    by_id = {item.id: item for item in corpus}
    truth = np.array([[by_id[item].unit_dimensions().get(name, np.nan) for name in names] for item in ids])
    known = np.where(np.isnan(truth), 0.5, truth)
    predicted = np.clip(known + noise * random.normal(size=truth.shape), 0, 1)
    speakers = tuple(by_id[name].speaker for name in ids)
    return DimensionPredictions(tuple(names), tuple(ids), (fold,) * len(ids), speakers, truth, predicted)


def invented_run(
    out: Path,
    accuracy: float = 0.6,
    teachers: dict[str, float] | None = None,
    corpus: Corpus | None = None,
    num_folds: int = 3,
    seed: int = 0,
    **sections: Any,
) -> Path:
    """The folder of a finished run whose student and teachers have about these accuracies.

    `sections` change the recipe. Runs with equal recipes but for the seed are one group. With dimensions in
    `targets`, their noise is 1 - accuracy.
    """
    from emodistill.config import parse_recipe, recipe_toml
    from emodistill.training.cross_validation import collect_scores

    corpus = corpus or invented_corpus()
    accuracies = {"prosodic": 0.45, "linguistic": 0.3} if teachers is None else teachers
    data = {
        "name": "ravdess-whisper", "seed": seed, "corpus": {"name": "ravdess", "root": "RAVDESS"},
        "protocol": {"kind": "k-fold", "folds": num_folds},
        "student": {"backbone": "compact"},
        **sections,
    }  # fmt: skip
    data["distillation"] = {"teachers": list(accuracies), **data.get("distillation", {})}
    recipe = parse_recipe(data)
    out.mkdir(parents=True)
    (out / "recipe.toml").write_text(recipe_toml(recipe), encoding="utf-8")
    protocol = invented_folds(corpus, num_folds)
    protocol.write(out / "protocol.json")
    write_utterances(replace(corpus), out)
    random = np.random.default_rng([seed, *out.name.encode()])
    for fold in protocol.folds:
        folder = out / f"fold-{fold.name}"
        folder.mkdir()
        for model, value in {"student": accuracy, **accuracies}.items():
            for split in ("test", "dev"):
                ids = fold.split(split)
                if "emotion" in recipe.targets:
                    table = invented_predictions(corpus, ids, fold.name, value, random)
                    write_predictions(table, folder / table_name(model, split))
                if recipe.dimensions:
                    dimensions = invented_dimensions(
                        corpus, ids, fold.name, 1 - value, random, recipe.dimensions
                    )
                    write_dimensions(dimensions, folder / dimension_table_name(model, split))
        write_checksums(folder, {path.name: file_sha256(path) for path in sorted(folder.glob("*.csv"))})
    collect_scores(recipe, out)
    return out
