"""Scores of predictions with known utterances: UA and WA over the number of utterances that are known.

A score is the mean over draws of the known utterances. Its interval is that of this mean, by bootstrap over
speakers: speakers are drawn within each corpus, and all settings are scored on the same draws of speakers.
Every corpus must have enough speakers, since the draws of each count.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emodistill.errors import MissingExtraError
from emodistill.evaluation.bootstrap import (
    FEW_SPEAKERS,
    RESAMPLES,
    Estimate,
    Floats,
    draw_speakers,
    make_estimate,
)
from emodistill.evaluation.known import DRAWN, MOSTLY_NEUTRAL, Count, KnownPredictions, Setting
from emodistill.evaluation.metrics import ACCURACIES, scores_of_confusions
from emodistill.files import atomic_write
from emodistill.inference.model_card import MIN_SPEAKERS, why_no_interval

POOLED, MEAN_OF_CORPORA, MEAN_OF_FOLDS = "all, pooled", "mean of corpora", "mean of folds"
HEADER = ("test data", "known", "used", "utterances", "speakers", "UA", "WA")
LATEX_ESCAPES = {"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "…": r"\ldots{}", "±": r"$\pm$", "–": "--"}


@dataclass(frozen=True)
class KnownScore:
    """A point of the curve: the scores of a group of utterances with some utterances known.

    The rows of `MEAN_OF_FOLDS` have a standard deviation over folds in place of an interval.
    """

    name: str  # group, variant and number of known utterances
    group: str  # a corpus, `POOLED`, `MEAN_OF_CORPORA` or `MEAN_OF_FOLDS`
    variant: str  # one of `known.VARIANTS`
    known: Count
    used: float  # mean number of known utterances; a speaker may have fewer others
    num_utterances: int
    num_speakers: int
    ua: Estimate
    wa: Estimate
    ua_sd: float | None  # over folds
    wa_sd: float | None
    protocol: str  # stamp of the protocol and of what is known

    @property
    def is_stress_test(self) -> bool:
        """Whether labels decided which utterances are known."""
        return self.variant == MOSTLY_NEUTRAL


def score_known(table: KnownPredictions, protocol: str, resamples: int = RESAMPLES) -> tuple[KnownScore, ...]:
    """The curve of each corpus, then of all pooled, the mean of corpora and the mean of folds if several.

    `protocol` is the stamp of the protocol. Every score has it, followed by what is known.
    """
    corpora = {
        name: _Group(table, table.corpora, name, resamples, seed)
        for seed, name in enumerate(dict.fromkeys(table.corpora))
    }
    folds = [_Group(table, table.folds, name, 0, 0) for name in dict.fromkeys(table.folds)]
    groups = {name: [part] for name, part in corpora.items()}
    if len(corpora) > 1:
        groups |= {POOLED: list(corpora.values()), MEAN_OF_CORPORA: list(corpora.values())}
    if len(folds) > 1:
        groups[MEAN_OF_FOLDS] = folds
    scores = [
        _score(group, parts, setting, protocol)
        for group, parts in groups.items()
        for setting in table.predicted
    ]
    return tuple(sorted(scores, key=lambda score: score.is_stress_test))


def _score(group: str, parts: Sequence["_Group"], setting: Setting, protocol: str) -> KnownScore:
    """A point of the curve of a group that consists of one or more parts, corpora or folds."""
    ua_sd = wa_sd = None
    if group == MEAN_OF_FOLDS:
        by_fold = [part.values(setting) for part in parts]
        ua, wa = (Estimate(float(np.mean([values[name] for values in by_fold]))) for name in ACCURACIES)
        ua_sd, wa_sd = (float(np.std([values[name] for values in by_fold], ddof=1)) for name in ACCURACIES)
    else:
        ua, wa = _estimates(parts, setting, is_mean=group == MEAN_OF_CORPORA)
    return KnownScore(
        name=f"{group}, {setting.known} known" + ("" if setting.variant == DRAWN else f", {setting.variant}"),
        group=group,
        variant=setting.variant,
        known=setting.known,
        used=float(np.concatenate([part.table.used[setting] for part in parts], axis=1).mean()),
        num_utterances=sum(part.num_utterances for part in parts),
        num_speakers=len({speaker for part in parts for speaker in part.table.speakers}),
        ua=ua,
        wa=wa,
        ua_sd=ua_sd,
        wa_sd=wa_sd,
        protocol=setting.stamp(protocol),
    )


class _Group:
    """The utterances of a corpus or fold, with draws of its speakers."""

    def __init__(
        self, table: KnownPredictions, group_of_row: Sequence[str], name: str, resamples: int, seed: int
    ) -> None:
        """Take the rows of a group.

        Corpora need different seeds. With one seed, corpora of as many speakers would get the same draws. One
        corpus alone has the seed 0, and so the interval of its plain scores.
        """
        self.table = table.select(np.flatnonzero([group == name for group in group_of_row]))
        self.num_utterances = len(self.table)
        self.num_speakers = len(set(self.table.speakers))
        self.counts, self.speaker_of_row = draw_speakers(self.table.speakers, resamples, seed)

    def by_speaker(self, setting: Setting) -> Floats:
        """The mean confusion matrix of each speaker over draws, (speakers, emotions, emotions).

        All draws have the same true emotions, so UA and WA of this mean are the means over draws.
        """
        predicted = self.table.predicted[setting]
        size = len(self.table.labels)
        matrices = np.zeros((self.num_speakers, size, size))
        np.add.at(
            matrices, (self.speaker_of_row[None], self.table.truth[None], predicted), 1 / len(predicted)
        )
        return matrices

    def values(self, setting: Setting) -> dict[str, float]:
        """UA and WA."""
        scores = scores_of_confusions(self.by_speaker(setting).sum(axis=0))
        return {name: float(scores[name]) for name in ACCURACIES}

    def resampled(self, setting: Setting) -> Floats:
        """The confusion matrix of each draw of speakers, (resamples, emotions, emotions)."""
        matrices = self.by_speaker(setting)
        size = matrices.shape[1]
        return (self.counts @ matrices.reshape(len(matrices), -1)).reshape(-1, size, size)


def _estimates(parts: Sequence[_Group], setting: Setting, is_mean: bool) -> list[Estimate]:
    """UA and WA of corpora with intervals: of all their utterances together, or with `is_mean` the mean."""
    matrices = [part.by_speaker(setting).sum(axis=0) for part in parts]
    draws = [part.resampled(setting) for part in parts]
    if not is_mean:
        matrices, draws = [np.sum(matrices, axis=0)], [np.sum(draws, axis=0)]
    values, value_draws = ([scores_of_confusions(counts) for counts in group] for group in (matrices, draws))
    # n speakers in k corpora have n − k degrees of freedom, as n − k + 1 speakers of one corpus have.
    num_speakers = sum(part.num_speakers for part in parts) - len(parts) + 1
    reason = next(filter(None, (why_no_interval(part.num_speakers) for part in parts)), None)
    estimates = []
    for name in ACCURACIES:
        value = float(np.mean([item[name] for item in values]))
        drawn = np.mean([item[name] for item in value_draws], axis=0)
        estimates.append(
            Estimate(value, no_interval=reason) if reason else make_estimate(value, drawn, num_speakers)
        )
    return estimates


# --- text ------------------------------------------------------------------------------------------


def known_notes(scores: Sequence[KnownScore]) -> list[str]:
    """How to read the curve, with warnings."""
    notes = [
        "UA and WA in %, each the mean over draws of the known utterances. Known are other utterances of the "
        "speaker, drawn without labels from all emotions. Intervals: 95 %, speakers drawn within each corpus."
    ]
    small = {
        score.group: score.num_speakers
        for score in scores
        if score.group not in (POOLED, MEAN_OF_CORPORA, MEAN_OF_FOLDS) and score.num_speakers < FEW_SPEAKERS
    }
    if small:
        counts = ", ".join(f"{name} {count}" for name, count in small.items())
        notes.append(f"Speakers: {counts}. With fewer than {FEW_SPEAKERS} speakers an interval is uncertain.")
    if any(count < MIN_SPEAKERS for count in small.values()):
        notes.append(
            f"A corpus with fewer than {MIN_SPEAKERS} speakers has no interval, nor has a figure that "
            "includes it."
        )
    if any(score.known != "all" and score.used < score.known for score in scores):
        notes.append(
            "Used is the mean number of known utterances. Some speakers have too few others to draw from, or "
            "too few neutral ones."
        )
    if any(score.is_stress_test for score in scores):
        notes.append(
            f"Rows with '{MOSTLY_NEUTRAL}' are a stress test: labels decide that the known utterances are "
            "mostly neutral. They are not the result of the model."
        )
    return notes


def known_cells(score: KnownScore) -> list[str]:
    """The cells of a row as text, in the order of `HEADER`."""
    known = f"{score.known}, {score.variant}" if score.is_stress_test else str(score.known)
    return [
        score.group, known, f"{score.used:.1f}", str(score.num_utterances), str(score.num_speakers),
        _format(score.ua, score.ua_sd), _format(score.wa, score.wa_sd),
    ]  # fmt: skip


def _format(estimate: Estimate, sd: float | None) -> str:
    text = f"{100 * estimate.value:.1f}"
    if sd is not None:
        return f"{text} ± {100 * sd:.1f}"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} ({100 * estimate.low:.1f} … {100 * estimate.high:.1f})"


def known_markdown(scores: Sequence[KnownScore]) -> str:
    """The curve and its notes as Markdown."""
    rows = [[*HEADER], ["---", "---", *["---:"] * (len(HEADER) - 2)], *map(known_cells, scores)]
    lines = ["| " + " | ".join(cells) + " |" for cells in rows]
    return "\n".join([*lines, "", *(f"{note}\n" for note in known_notes(scores))])


def known_latex(scores: Sequence[KnownScore]) -> str:
    """The curve as a LaTeX `tabular`, with its notes as comments."""

    def line(cells: Sequence[str]) -> str:
        return " & ".join("".join(LATEX_ESCAPES.get(sign, sign) for sign in cell) for cell in cells) + r" \\"

    return "\n".join(
        [
            *(f"% {note}" for note in known_notes(scores)),
            r"\begin{tabular}{ll" + "r" * (len(HEADER) - 2) + "}",
            r"\hline", line(HEADER), r"\hline",
            *(line(known_cells(score)) for score in scores),
            r"\hline", r"\end{tabular}", "",
        ]
    )  # fmt: skip


def write_known_tables(scores: Sequence[KnownScore], folder: Path) -> None:
    """Write the curve as `known.md` and `known.tex`, and its plot as `known.png`, into a folder."""
    for name, text in (("known.md", known_markdown(scores)), ("known.tex", known_latex(scores))):
        with atomic_write(folder / name) as partial:
            partial.write_text(text, encoding="utf-8")
    plot_known(scores, folder / "known.png")


def curves(scores: Sequence[KnownScore]) -> dict[str, list[KnownScore]]:
    """The lines of a plot: the scores of each corpus, and the mean of corpora, without the stress test."""
    groups: dict[str, list[KnownScore]] = {}
    for score in scores:
        if not score.is_stress_test and score.group not in (POOLED, MEAN_OF_FOLDS):
            groups.setdefault(score.group, []).append(score)
    return groups


def plot_known(scores: Sequence[KnownScore], path: Path) -> None:
    """Plot UA over the number of known utterances, a line and a band for each corpus and their mean.

    `path` ends in .png, .svg or .pdf. The stress test is dotted. Raises `MissingExtraError` without
    matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plot") from error
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()
    counts = list(dict.fromkeys(score.known for score in scores))
    place = {count: position for position, count in enumerate(counts)}
    for group, points in curves(scores).items():
        x = [place[point.known] for point in points]
        line = axes.plot(x, [100 * point.ua.value for point in points], marker="o", markersize=4, label=group)
        bounds = [(point.ua.low, point.ua.high) for point in points]
        if all(low is not None and high is not None for low, high in bounds):
            low, high = (np.array([pair[side] for pair in bounds], dtype=float) for side in (0, 1))
            axes.fill_between(x, 100 * low, 100 * high, color=line[0].get_color(), alpha=0.12, linewidth=0)
        stress = [score for score in scores if score.group == group and score.is_stress_test]
        axes.plot(
            [place[point.known] for point in stress], [100 * point.ua.value for point in stress],
            color=line[0].get_color(), linestyle=":", label=f"{group}, {MOSTLY_NEUTRAL}" if stress else None,
        )  # fmt: skip
    axes.set_xticks(range(len(counts)), [str(count) for count in counts])
    axes.set(xlabel="known utterances of the speaker", ylabel="UA (%)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#eeeeee")
    axes.legend(frameon=False, fontsize=9)
    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=150)
