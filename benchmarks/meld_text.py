"""Measures a simple baseline on MELD's text: tf-idf and logistic regression, on the official split.

    python benchmarks/meld_text.py MELD [RUN …]

The features are words and pairs of words in lower case, with sublinear term frequency. Each utterance is
classified by itself. The regularisation and the class weights are chosen on dev by weighted F1. Test is
scored once. The script also prints the scores of finished runs of the recipe `meld-text`.
"""

import argparse
from itertools import product
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from emodistill.corpora import read_corpus
from emodistill.evaluation.metrics import unweighted_accuracy, weighted_accuracy, weighted_f1
from emodistill.evaluation.run import read_run


def main() -> None:
    """Fit, choose on dev, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path, help="folder of MELD")
    parser.add_argument("runs", type=Path, nargs="*", metavar="run", help="run folders of `meld-text`")
    given = parser.parse_args()
    corpus = read_corpus("meld", given.corpus)
    labels = corpus.labels
    texts: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
    truth: dict[str, list[int]] = {"train": [], "dev": [], "test": []}
    for utterance in corpus:
        texts[utterance.split or ""].append(utterance.transcript or "")
        truth[utterance.split or ""].append(labels.index(utterance.emotion or ""))
    vectors = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, token_pattern=r"\w+|[!?]+")
    x = {"train": vectors.fit_transform(texts["train"])}
    x |= {split: vectors.transform(texts[split]) for split in ("dev", "test")}
    best: tuple[float, LogisticRegression, str] | None = None
    grid = list(product((0.3, 1.0, 3.0, 10.0), (None, "balanced")))
    for strength, weights in grid:
        model = LogisticRegression(C=strength, class_weight=weights, max_iter=1000)
        model.fit(x["train"], truth["train"])
        score = weighted_f1(truth["dev"], model.predict(x["dev"]))
        if best is None or score > best[0]:
            best = (score, model, f"C = {strength}, class weights {weights}")
    assert best is not None
    print(f"tf-idf and logistic regression, {len(grid)} configurations on dev; chosen: {best[2]}")
    _print_scores("dev", truth["dev"], best[1].predict(x["dev"]))
    _print_scores("test", truth["test"], best[1].predict(x["test"]))
    for folder in given.runs:
        run = read_run(folder)
        print(f"{run.name}, protocol {run.protocol.stamp}")
        for split in ("dev", "test"):
            table = run.table(split=split)
            _print_scores(split, table.truth, table.predicted)


def _print_scores(split: str, truth: list[int] | np.ndarray, predicted: np.ndarray) -> None:
    f1, ua = weighted_f1(truth, predicted), unweighted_accuracy(truth, predicted)
    wa = weighted_accuracy(truth, predicted)
    print(f"  {split}: weighted F1 {100 * f1:.2f}, UA {100 * ua:.2f}, WA {100 * wa:.2f}")


if __name__ == "__main__":
    main()
