"""Measures how well the arousal of an answer tells high from low, on corpora that the model never heard.

    python benchmarks/arousal.py MODEL CORPORA

CORPORA has the folders emovo and spanish. High are angry, happy, fearful and surprised utterances, low
are sad and neutral ones. Calm counts as neutral, and disgusted utterances are left out. The answers
are those of the recogniser over all emotions of the model, without a voice. Printed is the area under the ROC
curve (AUC), the probability that a high utterance has more arousal than a low one, with a 95 % interval by
bootstrap over speakers. EMOVO has six speakers, so its interval is too narrow. For valence, happy utterances
are high, and angry, sad, fearful and disgusted ones are low.

Each run is a look at these corpora: choose nothing by it, and log it in docs/results.md.
"""

import argparse
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from emodistill import Recognizer
from emodistill.corpora import Utterance
from emodistill.corpora.load import CorpusSource
from emodistill.evaluation.bootstrap import percentile_interval
from emodistill.training.evaluation_run import open_labelled_corpus

GROUPS = {  # dimension -> (high, low)
    "arousal": (("angry", "happy", "fearful", "surprised"), ("sad", "neutral")),
    "valence": (("happy",), ("angry", "sad", "fearful", "disgusted")),
}
RESAMPLES = 2000


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="bundled, large, or the folder of an exported model")
    parser.add_argument("corpora", type=Path, help="folder with emovo and spanish")
    given = parser.parse_args()
    recognizer = Recognizer(given.model, threads=1)
    print("| corpus | dimension | utterances | AUC |\n| --- | --- | ---: | ---: |")
    for name, source, folder in (
        ("emovo", "emovo", given.corpora / "emovo"),
        ("spanish", str(given.corpora / "spanish" / "utterances.csv"), None),
    ):
        corpus = list(open_labelled_corpus(CorpusSource(source, folder), "seven")[0])
        predictions = list(recognizer.predict_all([item.path for item in corpus if item.path], jobs=2))
        for dimension, (high, low) in GROUPS.items():
            rows = [
                (item, row.dimensions[dimension])
                for item, row in zip(corpus, predictions, strict=True)
                if item.emotion in high + low and row.dimensions is not None
            ]
            value, lowest, highest = with_interval(rows, high)
            print(f"| {name} | {dimension} | {len(rows)} | {value:.3f} ({lowest:.3f} … {highest:.3f}) |")


def with_interval(rows: list[tuple[Utterance, float]], high: tuple[str, ...]) -> tuple[float, float, float]:
    """Return the AUC of the values of utterances, and its interval by bootstrap over speakers."""
    values = np.array([value for _, value in rows])
    is_high = np.array([item.emotion in high for item, _ in rows])
    speakers = np.array([item.speaker for item, _ in rows])
    by_speaker = [np.flatnonzero(speakers == name) for name in np.unique(speakers)]
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(RESAMPLES):
        drawn = np.concatenate(
            [by_speaker[place] for place in rng.integers(0, len(by_speaker), len(by_speaker))]
        )
        draws.append(area_under_curve(values[drawn], is_high[drawn]))
    low, top = percentile_interval(np.array(draws))
    return area_under_curve(values, is_high), float(low), float(top)


def area_under_curve(values: np.ndarray, is_high: np.ndarray) -> float:
    """Return the AUC from the ranks of values (n,), equal values counting half (Mann & Whitney 1947)."""
    num_high, num_low = int(is_high.sum()), int((~is_high).sum())
    return float((rankdata(values)[is_high].sum() - num_high * (num_high + 1) / 2) / (num_high * num_low))


if __name__ == "__main__":
    main()
