"""What simple words tell on MELD: tf-idf and logistic regression on the official split, utterance alone.

    python benchmarks/meld_text.py MELD [RUN …]

Words and pairs of words, lower case, sublinear term frequency; the strength of the regularisation and the weighting of
the classes are chosen on dev by weighted F1, and test is scored once. Beside it the scores of finished runs of `meld-text`.
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
    """Fit, choose and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("runs", type=Path, nargs="*")
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
        found = weighted_f1(truth["dev"], model.predict(x["dev"]))
        if best is None or found > best[0]:
            best = (found, model, f"C = {strength}, class weights {weights}")
    assert best is not None
    print(f"tf-idf and logistic regression, {len(grid)} configurations on dev; chosen: {best[2]}")
    _print("dev", truth["dev"], best[1].predict(x["dev"]))
    _print("test", truth["test"], best[1].predict(x["test"]))
    for folder in given.runs:
        run = read_run(folder)
        print(f"{run.name}, protocol {run.protocol.stamp}")
        for split in ("dev", "test"):
            table = run.table(split=split)
            _print(split, table.truth, table.predicted)


def _print(split: str, truth: list[int] | np.ndarray, said: np.ndarray) -> None:
    scores = (weighted_f1(truth, said), unweighted_accuracy(truth, said), weighted_accuracy(truth, said))
    print(f"  {split}: weighted F1 {100 * scores[0]:.2f}, UA {100 * scores[1]:.2f}, WA {100 * scores[2]:.2f}")


if __name__ == "__main__":
    main()
