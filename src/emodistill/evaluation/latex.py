"""Scores, comparisons and ablations as tables of LaTeX: booktabs, as wide as one column of a paper."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from re import sub

from emodistill.evaluation.ablation_rows import AblationRow
from emodistill.evaluation.ablation_systems import ORACLES, TEACHERS
from emodistill.evaluation.ablation_table import AblationTable
from emodistill.evaluation.bootstrap import Estimate
from emodistill.evaluation.compare import MEAN_CCC, VOTES_PREFIX, Comparison, is_share, measure_title
from emodistill.evaluation.cost import AUDIO_S, compared_costs, cost_cell, cost_row, known_titles
from emodistill.evaluation.dimension_scores import DIMENSION_SCORE_TITLES, RunDimensions
from emodistill.evaluation.forest import SIGNIFICANT
from emodistill.evaluation.groups import group_runs
from emodistill.evaluation.metrics import SCORE_TITLES
from emodistill.evaluation.run import Run
from emodistill.evaluation.scores import RunScores
from emodistill.evaluation.tables import format_p_value, format_percent, format_value

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#",
    "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "…": r"\dots{}", "–": "--", "±": r"$\pm$", "×": r"$\times$",
}  # fmt: skip


def escape(text: str) -> str:
    """Text as LaTeX that prints it. Letters of other alphabets stay as they are."""
    return "".join(_SPECIAL.get(letter, letter) for letter in text)


_POOLED_NOTE = r"All folds pooled. Brackets: 95\,\% intervals by bootstrap over speakers."
_CCC_NOTE = "CCC: concordance correlation coefficient (Lin 1989), the mean over dimensions."
_VOTE_TITLES = {f"{VOTES_PREFIX}kl": "KL", f"{VOTES_PREFIX}js": "JS"}
_VOTES_NOTE = (
    "KL, JS: Kullback-Leibler divergence in nats and Jensen-Shannon distance of the predictions from the "
    "listeners' votes; lower is better."
)
LONG_NAME = 18  # characters: a longer name in the first column is broken into lines
NAME_WIDTH = 0.3  # of the column of the paper, for names that are broken


@dataclass(frozen=True)
class LatexTable:
    """A table whose cells, caption and notes are LaTeX already."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...] | None, ...]  # None: a line between groups
    caption: str
    label: str  # without its prefix `tab:`
    notes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()  # the text of the first column, which decides its width
    spans: bool = False  # as wide as both columns of the paper

    def with_costs(self, costs: Mapping[str, Mapping[str, float | None]]) -> "LatexTable":
        """The table with the columns of `COST_TITLES` that are known; then it spans two columns of the paper.

        Args:
            costs: a name of the first column, as text -> its figures.
        """
        titles = known_titles(list(costs.values()))
        if not titles:
            return self
        by_cell = {_name(name): figures for name, figures in costs.items()}

        def cells(row: tuple[str, ...]) -> list[str]:
            figures = by_cell.get(row[0], {}) if row[0] else None
            if figures is None:
                return [""] * len(titles)
            return [escape(cost_cell(name, figures.get(name))) for name in titles]

        rows = tuple(None if row is None else (*row, *cells(row)) for row in self.rows)
        return replace(self, columns=(*self.columns, *map(escape, titles.values())), rows=rows, spans=True)

    def text(self) -> str:
        r"""The table environment. Paste it into a document with \usepackage{booktabs}."""
        is_long = max(map(len, self.names), default=0) > LONG_NAME
        first = rf"p{{{NAME_WIDTH}\columnwidth}}" if is_long else "l"
        ragged = r"\raggedright " if is_long else ""
        body = [
            r"\midrule" if row is None else (ragged if row[0] else "") + " & ".join(row) + r" \\"
            for row in self.rows
        ]
        environment, width = ("table*", r"\textwidth") if self.spans else ("table", r"\columnwidth")
        notes = [rf"\par\smallskip\parbox{{{width}}}{{\footnotesize {' '.join(self.notes)}}}"]
        return "\n".join(
            [
                r"% needs \usepackage{booktabs}; 'emodistill cite' writes the references",
                rf"\begin{{{environment}}}[t]",
                r"\centering",
                rf"\caption{{{self.caption}}}",
                rf"\label{{tab:{self.label}}}",
                r"\footnotesize",
                r"\setlength{\tabcolsep}{3pt}",
                rf"\begin{{tabular}}{{@{{}}{first}{'r' * (len(self.columns) - 1)}@{{}}}}",
                r"\toprule",
                " & ".join(self.columns) + r" \\",
                r"\midrule",
                *body,
                r"\bottomrule",
                r"\end{tabular}",
                *(notes if self.notes else []),
                rf"\end{{{environment}}}",
                "",
            ]
        )


# --- parts -----------------------------------------------------------------------------------------


def _label(name: str) -> str:
    """A name as a label: small letters, digits and hyphens."""
    return sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "scores"


def _name(text: str) -> str:
    """A name as LaTeX that may break into lines after its signs, but not inside of numbers."""
    return sub(r"([.=/)]|\\_)(?=[^\W\d])|=(?=\S)", r"\g<0>\\allowbreak{}", escape(text))


def _number(text: str) -> str:
    """A number as text with a minus sign in place of a hyphen; – becomes a dash."""
    return f"${text}$" if text[:1] in "+-" and text[1:] else escape(text)


def _percent(value: float | None, sign: bool = False) -> str:
    return _number(format_percent(value, sign))


def _reason(no_interval: str | None) -> str:
    """Why there is no interval, in small print; empty for None."""
    return "" if no_interval is None else rf"{{\scriptsize {escape(no_interval.partition(',')[0])}}}"


def _interval(
    low: float | None, high: float | None, digits: int = 2, sign: bool = True, scale: float = 100
) -> str:
    """An interval, times `scale`, in small print; empty for None."""
    if low is None or high is None:
        return ""
    ends = (f"{scale * value:{'+' if sign else ''}.{digits}f}" for value in (low, high))
    return rf"{{\scriptsize $[{', '.join(ends)}]$}}"


def _p_value(value: float | None) -> str:
    text = format_p_value(value)
    return f"${text}$" if text.startswith("<") else escape(text)


def _bold(text: str) -> str:
    return rf"\textbf{{{text}}}"


def _folds(number: int) -> str:
    return "1 fold" if number == 1 else f"{number} folds"


def _test_set(runs: Sequence[Run]) -> str:
    """Corpus, protocol, folds, seeds and size of the test data, for a caption."""
    run = runs[0]
    table = run.table() if run.has_emotions else run.dimension_table()
    seeds = sorted({seed for group in group_runs(runs) for seed in group.seeds if seed is not None})
    facts = [f"{_folds(len(run.scores['folds']))}: {run.protocol.description}"]
    if seeds:
        facts.append(f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}")
    facts.append(f"{len(table)} test utterances of {len(set(table.speakers))} speakers")
    facts.append(f"protocol {run.scores['protocol']}")
    return escape(f"{run.protocol.corpus} ({'; '.join(facts)})")


# --- tables ----------------------------------------------------------------------------------------


def scores_latex(scores: RunScores, run: Run) -> str:
    """A run's scores: a row for each model, with 95 % intervals below it. Dimensions have another table."""
    tables = [_emotions_table(scores, run)] if scores.models else []
    if scores.dimensions is not None:
        tables.append(_dimensions_table(scores.dimensions, run))
    return "\n".join(table.text() for table in tables)


def _emotions_table(scores: RunScores, run: Run) -> LatexTable:
    """UA, WA and F1 of each model, with what it costs."""
    rows: list[tuple[str, ...] | None] = []
    costs = {}
    for place, model in enumerate(scores.models):
        name = f"{model.model} teacher" if place else model.model
        if scores.cost is not None:
            costs[name] = cost_row(scores.cost.models.get(model.model))
        rows += _estimate_rows((_name(name),), [model.scores[measure] for measure in SCORE_TITLES], 100, 1)
    return LatexTable(
        ("Model", *(escape(title) for title in SCORE_TITLES.values())),
        tuple(rows),
        rf"Scores in \% on {_test_set([run])}.",
        _label(f"scores-{run.folder.resolve().name}"),
        (_POOLED_NOTE, *_cost_notes(costs)),
    ).with_costs(costs)


def _dimensions_table(dimensions: RunDimensions, run: Run) -> LatexTable:
    """CCC, Pearson's r and RMSE of each model and dimension."""
    rows: list[tuple[str, ...] | None] = []
    for place, model in enumerate(dimensions.models):
        if place:
            rows.append(None)
        for name, score in model.dimensions.items():
            teacher = " teacher" if place else ""
            estimates = [score.scores[measure] for measure in DIMENSION_SCORE_TITLES]
            rows += _estimate_rows((_name(model.model + teacher), escape(name)), estimates, 1, 3)
    return LatexTable(
        ("Model", "Dimension", *(escape(title) for title in DIMENSION_SCORE_TITLES.values())),
        tuple(rows),
        f"Dimensions, from 0 to 1, on {_test_set([run])}.",
        _label(f"dimensions-{run.folder.resolve().name}"),
        (_POOLED_NOTE, "CCC: concordance correlation coefficient (Lin 1989)."),
    )


def _estimate_rows(
    names: tuple[str, ...], estimates: Sequence[Estimate | None], scale: float, digits: int
) -> list[tuple[str, ...]]:
    """A row of figures after `names`, and below it a row of intervals where there are any."""
    values = [
        "not defined" if item is None else _number(item.text(scale, digits).split()[0]) for item in estimates
    ]
    intervals = [
        "" if item is None else _interval(item.low, item.high, digits, sign=False, scale=scale)
        for item in estimates
    ]
    rows = [(*names, *values)]
    return [*rows, ("",) * len(names) + tuple(intervals)] if any(intervals) else rows


def comparisons_latex(comparisons: Sequence[Comparison], runs: Sequence[Run]) -> str:
    """Compared runs: UA, WA and CCC of each, and the difference in the first of these to the reference.

    Where not all have one reference, a row has both runs of a pair.
    """
    names = _short_names([name for item in comparisons for name in (item.reference, item.run)])
    one_reference = len({item.reference for item in comparisons}) == 1
    common = [
        name for name in comparisons[0].differences if all(name in item.differences for item in comparisons)
    ]
    ccc = [name for name in common if name.startswith(MEAN_CCC)][:1]
    votes = [name for name in common if name in _VOTE_TITLES]
    shown = [name for name in common if is_share(name)] + ccc + votes
    rows = _comparison_rows(comparisons, names, shown, one_reference)
    folders = {
        name: members
        for item in comparisons
        for name, members in ((item.reference, item.reference_runs), (item.run, item.run_runs))
    }
    costs = {}
    for name, members in folders.items():
        known = compared_costs(members) if members else None
        if known:
            costs[names[name]] = next(iter(known.values()))
    reference = f"to {names[comparisons[0].reference]}" if one_reference else "to the system above it"
    titles = [_VOTE_TITLES.get(measure) or escape(measure_title(measure)) for measure in shown]
    unit = r" in \%" if is_share(shown[0]) else ""
    table = LatexTable(
        ("System", *titles, rf"$\Delta${titles[0]}", "$p$"),
        tuple(rows),
        rf"Test scores{unit} on {_test_set(runs)}.",
        _label(f"compare-{names[comparisons[0].reference]}"),
        (
            rf"$\Delta${titles[0]}: difference {_name(reference)}, with its 95\,\% interval and $p$ by "
            r"paired bootstrap over speakers; $p$ with Holm's correction.",
            *([_CCC_NOTE] * bool(ccc) + [_VOTES_NOTE] * bool(votes)),
            *_seed_notes(comparisons),
            _bold_note("every system that it is compared with", titles[0]),
            *_cost_notes(costs),
        ),
        tuple(names.values()),
        spans=bool(votes),
    )
    return table.with_costs(costs).text()


def _comparison_rows(
    comparisons: Sequence[Comparison], names: Mapping[str, str], shown: Sequence[str], one_reference: bool
) -> list[tuple[str, ...] | None]:
    """The rows of compared runs. `shown` are the measures; the difference is of the first one."""
    best = _best(comparisons, shown[0])
    scale, digits = (100, 2) if is_share(shown[0]) else (1, 3)

    def figures(item: Comparison, side: str) -> list[str]:
        cells = []
        for measure in shown:
            found = item.differences[measure]
            text = _value(measure, getattr(found, side))
            if measure == shown[0]:
                sd = getattr(found, f"{side}_sd")
                text = _bold(text) if getattr(item, side) == best else text
                text += "" if sd is None else rf" $\pm$ {_value(measure, sd)}"
            cells.append(text)
        return cells

    rows: list[tuple[str, ...] | None] = []
    for place, item in enumerate(comparisons):
        first = item.differences[shown[0]]
        if not one_reference and place:
            rows.append(None)
        if place == 0 or not one_reference:
            rows.append((_name(names[item.reference]), *figures(item, "reference"), "--", "--"))
        difference = _value(shown[0], first.value, True)
        rows.append((_name(names[item.run]), *figures(item, "run"), difference, _p_value(first.p_holm)))
        interval = _interval(first.low, first.high, digits, scale=scale) or _reason(first.no_interval)
        rows.append(("", *[""] * len(shown), interval, ""))
    return rows


def _value(measure: str, value: float | None, sign: bool = False) -> str:
    return _number(format_value(measure, value, sign))


def ablation_latex(ablation: AblationTable, runs: Sequence[Run]) -> str:
    """An ablation: the main measure of each cell, and its difference to the full method.

    CCC has another table where UA is the main measure. `runs` are the runs of the full method.
    """
    costs = {row.model: row.figures for row in ablation.costs}
    table = _ablation_table(ablation, ablation.measure, runs, _cost_notes(costs)).with_costs(costs)
    has_further = ablation.has_ccc and ablation.measure != MEAN_CCC
    further = [_ablation_table(ablation, MEAN_CCC, runs)] if has_further else []
    return "\n".join(item.text() for item in (table, *further))


def _ablation_table(
    ablation: AblationTable, measure: str, runs: Sequence[Run], notes: Sequence[str] = ()
) -> LatexTable:
    """A measure of each cell, for UA with WA beside it, and its difference to the full method."""
    is_ua, title = is_share(measure), measure_title(measure)
    shown = [row for row in ablation.rows if row.figures(measure).value is not None]
    best = _best_student(ablation, shown, measure)
    rows: list[tuple[str, ...] | None] = []
    for row, before in zip(shown, [None, *shown], strict=False):
        if before is not None and row.group != before.group:
            rows.append(None)
        found = row.figures(measure)
        value = _value(measure, found.value)
        value = _bold(value) if row is best else value
        value += "" if found.sd is None else rf" $\pm$ {_value(measure, found.sd)}"
        wa = (_percent(row.pooled_wa),) if is_ua else ()
        difference = _value(measure, found.difference, True)
        rows.append((_name(row.cell), value, *wa, difference, _p_value(found.p_holm)))
        if found.low is not None or found.no_interval is not None:
            scale, digits = (100, 2) if is_ua else (1, 3)
            interval = _interval(found.low, found.high, digits, scale=scale) or _reason(found.no_interval)
            rows.append(("", "", *[""] * len(wa), interval, ""))
    over_seeds = r"; mean $\pm$ standard deviation over seeds" if ablation.num_seeds > 1 else ""
    is_main = measure == ablation.measure
    scores = r"test scores in \%" if is_ua else "CCC of dimensions"
    return LatexTable(
        ("Cell", title, *(["WA"] if is_ua else []), rf"$\Delta${title}", "$p$"),
        tuple(rows),
        rf"Ablation: {scores} on {_test_set(runs)}.",
        _label(f"ablation-{'' if is_main else f'{measure}-'}{runs[0].scores['recipe']}"),
        (
            *([] if is_ua else [_CCC_NOTE]),
            rf"Pooled over folds{over_seeds}. "
            rf"$\Delta${title}: difference to {_name(ablation.reference)}, with its 95\,\% interval by "
            r"paired bootstrap over speakers; $p$ with Holm's correction over the students.",
            _bold_note(f"{ablation.reference}, or of {ablation.reference} to every other student,", title),
            *notes,
        ),
        tuple(row.cell for row in shown),
    )


def _best_student(ablation: AblationTable, rows: Sequence[AblationRow], measure: str) -> AblationRow | None:
    """The student with the highest measure, where its difference is significant; else None."""
    students = [row for row in rows if row.group not in (TEACHERS, ORACLES)]
    if not students:
        return None
    top = max(students, key=lambda row: row.figures(measure).value or 0.0)
    with_p = [row for row in students if row.figures(measure).p_holm is not None]
    against = with_p if top.cell == ablation.reference else [top]
    p_values = [row.figures(measure).p_holm for row in against]
    clear = bool(p_values) and all(value is not None and value < SIGNIFICANT for value in p_values)
    return top if clear else None


def _cost_notes(costs: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    """What the columns of the cost mean; empty where no cost is known."""
    known = known_titles(list(costs.values()))
    texts = {
        "macs": "MACs: multiply-accumulates",
        "latency_ms": "ms: latency on one thread",
        "memory_bytes": "memory: weights and tensors",
        "training_s": "training: time of all folds",
    }
    notes = [text for name, text in texts.items() if name in known]
    return [f"Cost of an utterance of {AUDIO_S:g} s ({'; '.join(notes)})."] if notes else []


def _seed_notes(comparisons: Sequence[Comparison]) -> list[str]:
    """What ± means, where groups of seeds are compared."""
    if all(len(item.reference_runs) <= 1 and len(item.run_runs) <= 1 for item in comparisons):
        return []
    return [r"Mean $\pm$ standard deviation over seeds, of the scores pooled over folds."]


def _bold_note(against: str, measure: str = "UA") -> str:
    return escape(
        f"Bold: the highest {measure}, only where its difference to {against} is significant (p < "
        f"{SIGNIFICANT:g} after the correction)."
    )


def _best(comparisons: Sequence[Comparison], measure: str) -> str | None:
    """The run with the highest measure, if it differs from all runs that it is compared with; else None."""
    values: dict[str, float] = {}
    for item in comparisons:
        found = item.differences[measure]
        values[item.reference], values[item.run] = found.reference, found.run
    best = max(values, key=lambda name: values[name])
    p_values = [
        item.differences[measure].p_holm for item in comparisons if best in (item.reference, item.run)
    ]
    return best if all(value is not None and value < SIGNIFICANT for value in p_values) else None


def _short_names(names: Sequence[str]) -> dict[str, str]:
    """The last part of each path, or the whole path where two have the same last part.

    Seeds are left out where all have the same ones, because the caption names them.
    """
    names = list(dict.fromkeys(names))
    short = {name: Path(name).name or name for name in names}
    unique = {name: last if list(short.values()).count(last) == 1 else name for name, last in short.items()}
    bare = {name: text.partition(", seeds ")[0] for name, text in unique.items()}
    same_seeds = len({text.partition(", seeds ")[2] for text in unique.values()}) == 1
    return bare if same_seeds and len(set(bare.values())) == len(bare) else unique
