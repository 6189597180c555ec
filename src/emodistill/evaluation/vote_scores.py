"""Scores of probabilities against listeners' votes, and of listeners against listeners.

For an utterance with the shares of votes q and the probabilities p over K emotions:

    entropy H(q) = −Σ_k q_k log q_k                       the least cross entropy that any model can have
    cross entropy = −Σ_k q_k log p_k                      in nats
    KL = cross entropy − H(q)                             Kullback & Leibler 1951; 0 where p = q
    JS = √(½ KL₂(q ‖ m) + ½ KL₂(p ‖ m)),  m = (p + q) / 2   in base 2, so from 0 to 1

JS is the Jensen-Shannon distance (Endres & Schindelin 2003, "A new metric for probability distributions"). It
is a metric: symmetric, 0 for equal distributions alone, and it obeys the triangle inequality. It is finite
where a share is 0, as in most votes. So it can also compare listeners with listeners, and KL cannot. But it
prefers sparse predictions where votes are few, so compare models by cross entropy or KL. Votes
for emotions outside of the label set are left out, and so are utterances without other votes.

The calibration error is over all pairs of an utterance and an emotion, in bins of p:

    error = Σ_b n_b / N · |mean p − mean q in bin b|       Naeini et al. 2015, here against shares of votes
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from emodistill.corpora.base import Utterance, vote_distribution
from emodistill.evaluation.bootstrap import (
    RESAMPLES,
    Estimate,
    Floats,
    bootstrap_means,
    draw_speakers,
    make_estimate,
)
from emodistill.evaluation.calibration import fit_temperature, with_temperature
from emodistill.evaluation.predictions import Predictions

VOTE_TITLES: Mapping[str, str] = {
    "cross_entropy": "cross entropy nats", "kl": "KL nats", "js": "JS distance",
    "calibration": "calibration error",
}  # fmt: skip
NUM_BINS = 10  # of probability, each as wide as the others
LEAST = 1e-7  # the least probability: a table of predictions has seven decimals
SPLITS, SPLIT_SEED = 20, 0  # random halves of the votes of each utterance


@dataclass(frozen=True)
class VoteBin:
    """The pairs of an utterance and an emotion whose probability is in one bin."""

    low: float
    high: float
    num_pairs: int
    probability: float  # mean
    share: float  # mean share of the votes


@dataclass(frozen=True)
class ModelVotes:
    """A model's probabilities against the votes."""

    model: str
    figures: dict[str, Estimate]  # by the keys of `VOTE_TITLES`
    bins: tuple[VoteBin, ...]  # those with pairs


@dataclass(frozen=True)
class HalfScores:
    """Listeners against listeners: random halves of the votes of each utterance, over `SPLITS` splits.

    One half is the aim. It is predicted by the other half, and by the model. A half has few votes, so its
    shares vary by chance, and all figures here are higher than those of large groups of listeners. Compare
    listeners with the model, which have the same aim: a model below `listeners` predicts a group of listeners
    better than another group of that size does.

    For the cross entropy the other half has one vote more, which is shared as all votes of the test set.
    Otherwise a vote for an emotion without a vote in the other half would cost infinitely much. The cross
    entropy is a proper score: the true distribution has the lowest one. JS is not: few votes are sparse, and
    it prefers predictions that are sparse too. Fractions of votes cannot be split, so utterances with such
    votes are left out.
    """

    num_utterances: int  # with two votes or more
    votes_each: float  # mean number of votes in the half that is the aim
    listeners: Estimate  # JS distance of the other half
    model: Estimate
    listeners_cross_entropy: Estimate  # in nats
    model_cross_entropy: Estimate


@dataclass(frozen=True)
class VoteScores:
    """All scores against votes on test."""

    num_utterances: int
    votes_each: float  # mean number of votes
    entropy: Estimate  # of the votes, in nats
    models: tuple[ModelVotes, ...]  # the main model first
    scaled: ModelVotes | None  # the main model after temperature scaling; None: no temperature was fitted
    fitted: ModelVotes | None  # the same with temperatures that are fitted on the votes of dev
    temperatures: dict[str, float]  # of `fitted`, by fold
    halves: HalfScores | None  # None: no utterance has two votes


# --- measures --------------------------------------------------------------------------------------


def entropy(shares: Floats) -> Floats:
    """The entropy of each row of shares (utterances, emotions), in nats: (utterances,)."""
    return -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(axis=1)


def cross_entropy(shares: Floats, probabilities: Floats) -> Floats:
    """The cross entropy of each row, both (utterances, emotions), in nats: (utterances,).

    Probabilities below `LEAST` are raised to it, and the rest is lowered so that each row sums to 1.
    """
    raised = np.maximum(probabilities, LEAST)
    return -(shares * np.log(raised / raised.sum(axis=1, keepdims=True))).sum(axis=1)


def kl_divergence(shares: Floats, probabilities: Floats) -> Floats:
    """The KL divergence of each row from the shares, both (utterances, emotions), in nats: (utterances,)."""
    return np.maximum(cross_entropy(shares, probabilities) - entropy(shares), 0.0)


def js_distance(one: Floats, two: Floats) -> Floats:
    """The Jensen-Shannon distance of each row, both (utterances, emotions), from 0 to 1: (utterances,)."""
    middle = (one + two) / 2
    divergence = entropy(middle) - (entropy(one) + entropy(two)) / 2
    return np.sqrt(np.clip(divergence / np.log(2), 0.0, 1.0))


def vote_measures(
    table: Predictions, shares: Floats, resamples: int, seed: int = 0
) -> dict[str, tuple[float, Floats]]:
    """Each measure of `VOTE_TITLES`, and its value on each draw of speakers, (resamples,)."""
    rows = {
        "cross_entropy": cross_entropy(shares, table.probabilities),
        "kl": kl_divergence(shares, table.probabilities),
        "js": js_distance(shares, table.probabilities),
    }
    found = {
        name: (float(values.mean()), bootstrap_means(values, table.speakers, resamples, seed))
        for name, values in rows.items()
    }
    counts, speaker_of_row = draw_speakers(table.speakers, resamples, seed)
    sums = np.zeros((counts.shape[1], NUM_BINS, 3))
    pairs = np.stack([np.ones_like(shares), table.probabilities, shares], axis=-1)
    np.add.at(sums, (speaker_of_row[:, None], _bins(table.probabilities)), pairs)
    draws = (counts @ sums.reshape(len(sums), -1)).reshape(-1, NUM_BINS, 3)
    found["calibration"] = (float(_gap(sums.sum(axis=0))), _gap(draws))
    return found


def _bins(probabilities: Floats) -> np.ndarray:
    """The bin of each probability."""
    return np.minimum((probabilities * NUM_BINS).astype(int), NUM_BINS - 1)


def _gap(sums: Floats) -> Floats:
    """The calibration error of counts, probabilities and shares that are summed by bin, (…, bins, 3)."""
    return np.asarray(np.abs(sums[..., 1] - sums[..., 2]).sum(axis=-1) / sums[..., 0].sum(axis=-1))


def vote_bins(probabilities: Floats, shares: Floats) -> tuple[VoteBin, ...]:
    """The mean probability and the mean share of the votes in each bin that has pairs."""
    places = _bins(probabilities)
    found = []
    for place in range(NUM_BINS):
        inside = places == place
        if inside.any():
            found.append(
                VoteBin(
                    place / NUM_BINS, (place + 1) / NUM_BINS, int(inside.sum()),
                    float(probabilities[inside].mean()), float(shares[inside].mean()),
                )
            )  # fmt: skip
    return tuple(found)


# --- scores of a run -------------------------------------------------------------------------------


def voted_part(
    table: Predictions, utterances: Mapping[str, Utterance]
) -> tuple[Predictions, Floats, Floats] | None:
    """The predictions of utterances with votes, their shares and their counts; None where there are none.

    Shares and counts are (utterances, emotions) in the order of the label set.
    """
    rows, shares, counts = [], [], []
    for row, name in enumerate(table.utterances):
        votes = utterances[name].vote_counts()
        distribution = vote_distribution(votes, table.labels)
        if distribution is not None:
            rows.append(row)
            shares.append(distribution)
            counts.append([float(votes.get(emotion, 0)) for emotion in table.labels])
    return (table.take(rows), np.array(shares), np.array(counts)) if rows else None


def score_votes(
    tables: Mapping[str, Predictions],
    scaled: Predictions | None,
    utterances: Mapping[str, Utterance],
    dev: Predictions | None = None,
) -> VoteScores | None:
    """Score models against votes; None where no test utterance has any.

    Args:
        tables: predictions by model, the main model first.
        scaled: those of the main model after temperature scaling.
        utterances: by id, with their votes.
        dev: dev predictions of the main model, on which temperatures are fitted to the votes.
    """
    found = {name: part for name, table in tables.items() if (part := voted_part(table, utterances))}
    if not found or next(iter(tables)) not in found:
        return None
    main, shares, counts = next(iter(found.values()))
    rescaled = None if scaled is None else voted_part(scaled, utterances)
    temperatures = {} if dev is None else fit_vote_temperatures(dev, utterances)
    fitted = None
    if set(main.folds) <= temperatures.keys():
        parts = [with_temperature(part, temperatures[fold]) for fold, part in main.by_fold().items()]
        by_fold = np.concatenate([np.flatnonzero(np.array(main.folds) == fold) for fold in main.by_fold()])
        fitted = _score_model(next(iter(found)), Predictions.join(parts), shares[by_fold])
    return VoteScores(
        num_utterances=len(main),
        votes_each=float(counts.sum(axis=1).mean()),
        entropy=_estimate(entropy(shares), main),
        models=tuple(_score_model(name, table, own) for name, (table, own, _) in found.items()),
        scaled=None if rescaled is None else _score_model(next(iter(found)), *rescaled[:2]),
        fitted=fitted,
        temperatures=temperatures if fitted is not None else {},
        halves=score_halves(main, counts),
    )


def fit_vote_temperatures(dev: Predictions, utterances: Mapping[str, Utterance]) -> dict[str, float]:
    """The temperature of each fold with the least cross entropy with the votes of its dev utterances.

    A fold without votes on dev is missing.
    """
    found = {}
    for fold, table in dev.by_fold().items():
        part = voted_part(table, utterances)
        if part is not None:
            found[fold] = fit_temperature(part[0], part[1])
    return found


def _score_model(name: str, table: Predictions, shares: Floats) -> ModelVotes:
    num_speakers = len(set(table.speakers))
    figures = {
        measure: make_estimate(value, draws, num_speakers)
        for measure, (value, draws) in vote_measures(table, shares, RESAMPLES).items()
    }
    return ModelVotes(name, figures, vote_bins(table.probabilities, shares))


def _estimate(values: Floats, table: Predictions) -> Estimate:
    draws = bootstrap_means(values, table.speakers, RESAMPLES)
    return make_estimate(float(values.mean()), draws, len(set(table.speakers)))


# --- listeners against listeners -------------------------------------------------------------------


def score_halves(table: Predictions, counts: Floats) -> HalfScores | None:
    """Score one half of the listeners, and the model, against the other half; None without two votes.

    `counts` are the votes (utterances, emotions).
    """
    usable = (counts == np.round(counts)).all(axis=1) & (counts.sum(axis=1) >= 2)
    if not usable.any():
        return None
    table, counts = table.select(usable.tolist()), counts[usable]
    rng = np.random.default_rng(SPLIT_SEED)
    distances, losses = np.zeros((2, len(table))), np.zeros((2, len(table)))  # of listeners, of the model
    sizes, overall = counts.sum(axis=1, keepdims=True), counts.sum(axis=0) / counts.sum()
    for _ in range(SPLITS):
        half = split_votes(counts, rng)
        aim = half / half.sum(axis=1, keepdims=True)
        rest = counts - half
        rest_sizes = rest.sum(axis=1, keepdims=True)
        distances += [js_distance(aim, rest / rest_sizes), js_distance(aim, table.probabilities)]
        losses += [
            cross_entropy(aim, (rest + overall) / (rest_sizes + 1)), cross_entropy(aim, table.probabilities)
        ]  # fmt: skip
    return HalfScores(
        num_utterances=len(table),
        votes_each=float(np.floor(sizes / 2).mean()),
        listeners=_estimate(distances[0] / SPLITS, table),
        model=_estimate(distances[1] / SPLITS, table),
        listeners_cross_entropy=_estimate(losses[0] / SPLITS, table),
        model_cross_entropy=_estimate(losses[1] / SPLITS, table),
    )


def split_votes(counts: Floats, rng: np.random.Generator) -> Floats:
    """Draw half of each utterance's votes without replacement, rounded down: (utterances, emotions)."""
    numbers = counts.astype(int)
    owner, emotion = np.nonzero(numbers)
    owner, emotion = (np.repeat(item, numbers[owner, emotion]) for item in (owner, emotion))
    order = np.lexsort((rng.random(len(owner)), owner))
    sizes = numbers.sum(axis=1)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    chosen = order[place < np.repeat(sizes // 2, sizes)]
    half = np.zeros(counts.shape)
    np.add.at(half, (owner[chosen], emotion[chosen]), 1)
    return half
