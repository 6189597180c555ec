"""The table of an ablation: every cell's scores, its difference to the full method, and how sure that is."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from emodistill.errors import MissingExtraError
from emodistill.evaluation.bootstrap import Floats, bounds, drawn_confusions
from emodistill.evaluation.compare import RESAMPLES, holm
from emodistill.evaluation.metrics import of_confusions, unweighted_accuracy
from emodistill.evaluation.predictions import Predictions, join
from emodistill.evaluation.run import Run
from emodistill.evaluation.tables import p_shown, percent

TEACHERS, ORACLES = "teachers", "oracles"  # the groups of the lines that are no students
ENSEMBLE = "teachers together"


@dataclass(frozen=True)
class Contender:
    """Something that was scored on the same utterances as the full method, once a seed."""

    name: str
    group: str  # "parts", a swept field, or one of the groups above
    same_as: str  # contenders of one recipe share this
    tables: Sequence[Predictions]  # one a seed

    @property
    def pooled(self) -> Predictions:
        """All seeds in one table: its UA is the mean of theirs."""
        return join(self.tables)


@dataclass(frozen=True)
class Line:
    """A line of the table; shares, not percent. Standard deviations are over all seeds and folds."""

    cell: str
    group: str
    values: int  # seeds × folds
    ua: float  # mean over seeds and folds
    ua_sd: float
    wa: float
    wa_sd: float
    ua_sd_seeds: float | None  # of each seed's mean over folds; None with one seed
    pooled_ua: float
    difference: float | None = None  # pooled UA less the full method's; None for itself, or other utterances
    low: float | None = None  # 95 % interval
    high: float | None = None
    p_value: float | None = None  # two-sided, that there is no difference
    p_holm: float | None = None  # corrected over the students in the table


@dataclass(frozen=True)
class Share:
    """How far distillation takes the plain student towards its teachers' ensemble: 0 not at all, 1 all the way."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Ablation:
    """What an ablation found."""

    lines: tuple[Line, ...]
    reference: str
    num_speakers: int
    num_seeds: int
    left_out: Mapping[str, str]
    covered: Share | None  # None where there is no plain student or ensemble, or it is not surely the better

    def write(self, folder: Path, name: str = "ablation") -> None:
        """Write the table as Markdown and CSV, and the plot as PNG, into a folder."""
        (folder / f"{name}.md").write_text(self.markdown(), encoding="utf-8")
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [item.name for item in fields(Line)], lineterminator="\n")
            writer.writeheader()
            writer.writerows(asdict(line) for line in self.lines)
        plot_ablation(self, folder / f"{name}.png")

    def markdown(self) -> str:
        """The table with what is to be known of it."""
        rows = [[*HEADER], ["---", *["---:"] * (len(HEADER) - 1)]] + [shown(line) for line in self.lines]
        text = ["| " + " | ".join(row) + " |" for row in rows]
        return "\n".join([*text, "", *(f"{line}\n" for line in self.notes())])

    def notes(self) -> list[str]:
        """How the table is to be read, and what is not in it."""
        found = [
            f"%; UA and WA: mean ± standard deviation over seeds and folds ({self.num_seeds} seeds). Difference: "
            f"pooled UA less that of '{self.reference}', 95 % interval and p by paired bootstrap over "
            f"{self.num_speakers} speakers, seeds averaged; Holm: corrected over all cells."
        ]
        found += [f"Left out: {name}: {why}." for name, why in self.left_out.items()]
        if self.covered is not None:
            share = self.covered
            found.append(
                f"Of the way from the plain student to the teachers' ensemble, distillation covers "
                f"{percent(share.value)} % ({percent(share.low)} … {percent(share.high)})."
            )
        return found


HEADER = ("cell", "UA", "WA", "difference", "95 % interval", "p", "p, Holm")


def show(ablation: Ablation, to: Console) -> None:
    """Print the table."""
    table = Table(title=f"test, in %: each beside '{ablation.reference}'")
    for column in HEADER:
        table.add_column(column, justify="left" if column == "cell" else "right")
    for line, after in zip_longest(ablation.lines, ablation.lines[1:]):
        ends = after is not None and after.group != line.group
        table.add_row(*map(escape, shown(line)), end_section=ends)
    table.caption = "\n".join(ablation.notes())
    to.print(table)


def shown(line: Line) -> list[str]:
    """The texts of a line."""
    interval = "–" if line.low is None else f"{percent(line.low, True)} … {percent(line.high, True)}"
    return [
        line.cell, f"{percent(line.ua)} ± {percent(line.ua_sd)}", f"{percent(line.wa)} ± {percent(line.wa_sd)}",
        percent(line.difference, True), interval, p_shown(line.p_value), p_shown(line.p_holm),
    ]  # fmt: skip


def measure(
    found: Sequence[Contender],
    reference: str,
    plain: str | None = None,
    distilled: str | None = None,
    left_out: Mapping[str, str] | None = None,
    resamples: int = RESAMPLES,
) -> Ablation:
    """Score contenders and compare each with the reference, on the same draws of speakers.

    `plain` and `distilled` (by default the reference) are the students whose way to the teachers' ensemble is told.
    Seeds are averaged within a draw: the interval is that of the seeds' mean over other speakers. The p-value is
    twice the share of draws on the other side of zero, at least 2 / (draws + 1).
    """
    by_name = {item.name: item for item in found}
    full = by_name[reference]
    ids = [table.utterances for table in full.tables]
    draws = {
        item.name: np.asarray(of_confusions(drawn_confusions(item.pooled, resamples))["ua"])
        for item in found
        if [table.utterances for table in item.tables] == ids
    }
    lines = []
    for item in found:
        line = _scored(item)
        if item.name in draws and item.same_as != full.same_as:
            line = _compared(line, draws[item.name] - draws[reference], _ua(full))
        lines.append(line)
    return Ablation(
        _corrected(lines, found), reference, len(set(full.tables[0].speakers)), len(full.tables), left_out or {},
        _covered(by_name, draws, distilled or reference, plain),
    )  # fmt: skip


def teachers_of(runs: Sequence[Run]) -> list[Contender]:
    """The teachers of a method, one run a seed, and their ensemble where there are several."""
    names = [name for name in runs[0].models if name != runs[0].main_model]
    tables = {name: [run.table(name) for run in runs] for name in names}
    found = [Contender(f"{name} teacher", TEACHERS, f"{name} teacher", tables[name]) for name in names]
    if len(names) > 1:
        together = [
            ensemble(run.table(), [tables[name][seed] for name in names]) for seed, run in enumerate(runs)
        ]
        found.append(Contender(ENSEMBLE, TEACHERS, ENSEMBLE, together))
    return found


def ensemble(like: Predictions, tables: Sequence[Predictions]) -> Predictions:
    """The normalised product of several models' probabilities, for those utterances of `like` that any has judged.

    That is Bayes' rule where what the models hear is independent given the emotion, and emotions are equally
    frequent to them. An utterance that one model cannot judge is judged by the others.
    """
    logs: dict[tuple[str, str], Floats] = {}
    for table in tables:
        for row, key in enumerate(zip(table.folds, table.utterances, strict=True)):
            logs[key] = logs.get(key, 0.0) + np.log(np.maximum(table.probabilities[row], 1e-7))
    keys = list(zip(like.folds, like.utterances, strict=True))
    kept = like.take([row for row, key in enumerate(keys) if key in logs])
    z = np.array([logs[key] for key in keys if key in logs])
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return replace(kept, probabilities=p / p.sum(axis=1, keepdims=True))


def _ua(item: Contender) -> float:
    return unweighted_accuracy(item.pooled.truth, item.pooled.predicted)


def _scored(item: Contender) -> Line:
    by_seed = [[part.scores() for part in table.by_fold().values()] for table in item.tables]
    ua = np.array([[fold.ua for fold in folds] for folds in by_seed])
    wa = np.array([[fold.wa for fold in folds] for folds in by_seed])

    def sd(values: Any) -> float:
        return float(np.std(values, ddof=np.size(values) > 1))

    return Line(
        item.name, item.group, ua.size, float(ua.mean()), sd(ua), float(wa.mean()), sd(wa),
        sd(ua.mean(axis=1)) if len(ua) > 1 else None, _ua(item),
    )  # fmt: skip


def _compared(line: Line, spread: Floats, reference_ua: float) -> Line:
    low, high = bounds(spread)
    beyond = min(int(np.sum(spread <= 0)), int(np.sum(spread >= 0)))
    return replace(
        line,
        difference=line.pooled_ua - reference_ua,
        low=low,
        high=high,
        p_value=min(1.0, 2 * (beyond + 1) / (len(spread) + 1)),
    )


def _corrected(lines: Sequence[Line], found: Sequence[Contender]) -> tuple[Line, ...]:
    """Lines with Holm's correction over the students; a recipe that is there twice is tested once."""
    tested: dict[str, float] = {}
    for line, item in zip(lines, found, strict=True):
        if line.p_value is not None and line.group not in (TEACHERS, ORACLES):
            tested[item.same_as] = line.p_value
    corrected = dict(zip(tested, holm(list(tested.values())), strict=True)) if tested else {}
    return tuple(
        replace(line, p_holm=corrected.get(item.same_as)) for line, item in zip(lines, found, strict=True)
    )


def _covered(
    by_name: Mapping[str, Contender], draws: Mapping[str, Floats], distilled: str, plain: str | None
) -> Share | None:
    if plain is None or plain not in draws or ENSEMBLE not in draws:
        return None
    start, end, full = (_ua(by_name[name]) for name in (plain, ENSEMBLE, distilled))
    way = draws[ENSEMBLE] - draws[plain]
    if bounds(way)[0] <= 0:
        return None
    gone = np.where(way > 0, (draws[distilled] - draws[plain]) / np.where(way > 0, way, 1), np.nan)
    return Share((full - start) / (end - start), *bounds(gone))


def plot_ablation(ablation: Ablation, path: Path) -> None:
    """Draw UA and the differences to a .png, .svg or .pdf. Raises `MissingExtraError` without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plot") from error
    lines = ablation.lines
    figure = Figure(figsize=(10, 1.6 + 0.36 * len(lines)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    rows = np.arange(len(lines))
    colours = ["#7f7f7f" if line.group in (TEACHERS, ORACLES) else "#1f77b4" for line in lines]
    for row, line, colour in zip(rows, lines, colours, strict=True):
        left.errorbar(100 * line.ua, row, xerr=100 * line.ua_sd, fmt="o", color=colour, capsize=3)
        if line.difference is not None and line.low is not None and line.high is not None:
            value, low, high = (100 * item for item in (line.difference, line.low, line.high))
            right.plot([low, high], [row, row], color=colour)
            right.plot(value, row, "o", color=colour)
        elif line.cell == ablation.reference:
            right.plot(0, row, "D", color=colour)
    for above, (one, two) in enumerate(pairwise(lines)):
        if one.group != two.group:
            for axes in (left, right):
                axes.axhline(above + 0.5, color="#d0d0d0", linewidth=0.8)
    left.set_yticks(rows, [line.cell for line in lines])
    left.invert_yaxis()
    left.set_xlabel(f"UA, %\nmean ± sd over seeds and folds ({ablation.num_seeds} seeds)")
    right.axvline(0, color="#808080", linewidth=0.8, linestyle=":")
    right.set_xlabel(f"difference to '{ablation.reference}'\npoints of pooled UA, 95 % interval")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="#eeeeee")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
