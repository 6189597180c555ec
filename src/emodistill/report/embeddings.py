"""The map of embeddings: a fold's test utterances in two dimensions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emodistill.corpora import Utterance
from emodistill.evaluation.run import Run
from emodistill.report import figures

MIN_MAPPED = 5  # utterances; t-SNE of fewer shows nothing


def embedding_map(run: Run, fold: str | None, notes: list[str]) -> dict[str, Any] | None:
    """A fold's test utterances in two dimensions, by the embeddings of the fold's student.

    Returns None and adds a note where audio or checkpoint is missing, or where there are too few utterances.
    """
    folder = run.checkpoint_folder(fold)
    fold = fold or run.scores["folds"][0]
    table = run.table().by_fold()[fold]
    utterances = [run.utterances[name] for name in table.utterances]
    if all(item.path is None for item in utterances):
        notes.append("No map of embeddings: the corpus is text without audio.")
        return None
    silent = [item for item in utterances if item.path is None or not item.path.is_file()]
    if silent:
        notes.append(
            f"No map of embeddings: the audio of {len(silent)} test utterances of fold {fold} is missing, "
            f"first {silent[0].path or silent[0].id}."
        )
        return None
    for name in ("model.json", "model.safetensors"):
        if not (folder / name).is_file():
            notes.append(f"No map of embeddings: the student of fold {fold} is missing ({folder / name}).")
            return None
    if len(table) < MIN_MAPPED:
        notes.append(f"No map of embeddings: fold {fold} has only {len(table)} test utterances.")
        return None
    points = _in_two_dimensions(_embeddings(folder, run, utterances))
    return {
        "fold": fold,
        "chart": figures.embedding_map(points, table),
        "emotions": figures.legend(table),
        "count": len(table),
        "speakers": len(set(table.speakers)),
    }


def _embeddings(folder: Path, run: Run, utterances: Sequence[Utterance]) -> np.ndarray:
    from emodistill.models.checkpoint import load_checkpoint
    from emodistill.training.checkpoint_inference import predict_checkpoint

    checkpoint = load_checkpoint(folder)
    _, outputs = predict_checkpoint(checkpoint, utterances, run.recipe.audio, run.recipe.runtime)
    return np.asarray(outputs["embedding"].numpy(), dtype=np.float64)


def _in_two_dimensions(embeddings: np.ndarray) -> np.ndarray:
    """The t-SNE (van der Maaten & Hinton 2008) of embeddings (utterances, dim), (utterances, 2).

    It starts from PCA, so the map is the same every time.
    """
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(embeddings) - 1) / 3)
    tsne = TSNE(2, perplexity=perplexity, init="pca", random_state=0, metric="cosine")
    return np.asarray(tsne.fit_transform(embeddings), dtype=np.float64)
