"""What a model costs, beside what it scores: `cost.json` of a run, and its rows in tables.

`cost.json` in a run folder, written when the first fold is finished and updated with each further one:

    audio_s, tokens       the measured utterance, and the length of its transcript for the linguistic teacher
    machine               cpu, threads, system, torch (or onnxruntime, and its provider if not the CPU)
    models                by name: the fields of `ModelCost`; training by fold and phase, as `TrainingCost`

`cost.json` in the folder of a trained model holds its `TrainingCost`, and `targets-<method>.cost.json` that
of its targets. None of these files decides a result: hashes, protocol stamps and resumed runs ignore them.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from emodistill.errors import ModelError
from emodistill.files import atomic_write, format_bytes
from emodistill.reading import parse_json

COST = "cost.json"
TOGETHER = "teachers together"
AUDIO_S = 3.0  # of the measured utterance


@dataclass(frozen=True)
class TrainingCost:
    """What one training took, over all the times that it was resumed."""

    seconds: float  # wall clock from the first epoch to the last, with the scores on dev
    epochs: int
    device: str  # "cpu", or the name of the GPU
    cpu: str
    threads: int
    torch: str
    # The highest memory of the GPU, or of the process. None: the system does not say.
    peak_memory_bytes: int | None = None
    shared: bool = False  # another run of the grid trained the model, and this run took it

    def write(self, path: Path) -> None:
        """Write the file."""
        _write_json(asdict(self), path)

    @classmethod
    def read(cls, path: Path) -> "TrainingCost | None":
        """Read the file; None where there is none, as in runs of older versions."""
        return cls(**_fields(cls, _read_json(path))) if path.is_file() else None


@dataclass(frozen=True)
class ModelCost:
    """What one model costs. None: not known. Figures at run time are for one utterance of `AUDIO_S`."""

    parameters: int | None = None
    trained_parameters: int | None = None  # the others are frozen
    size_bytes: int | None = None  # of the weights on disk
    macs: int | None = None  # multiply-accumulate operations of the network
    memory_bytes: int | None = None  # weights, and the peak of all tensors that are alive at once
    latency_ms: float | None = None  # on one thread, median of `repetitions`, with the extraction
    extraction_ms: float | None = None  # the part of it that computes LLDs; None: the model reads none
    repetitions: int | None = None
    training: dict[str, dict[str, TrainingCost]] = field(default_factory=dict)  # by fold and phase

    @property
    def training_s(self) -> float | None:
        """Seconds of training over all folds and phases; None: not known."""
        parts = self._trainings()
        return sum(part.seconds for part in parts) if parts else None

    @property
    def is_shared(self) -> bool:
        """Whether another run did some of the training."""
        return any(part.shared for part in self._trainings())

    def _trainings(self) -> list[TrainingCost]:
        return [part for phases in self.training.values() for part in phases.values()]


@dataclass(frozen=True)
class RunCost:
    """What the models of a run cost, the main model first."""

    models: dict[str, ModelCost]
    machine: dict[str, Any] = field(default_factory=dict)
    tokens: int | None = None  # of the measured transcript
    audio_s: float = AUDIO_S

    @property
    def teachers(self) -> ModelCost | None:
        """All teachers, one after the other: what their ensemble costs. None: fewer than two teachers."""
        teachers = list(self.models.values())[1:]
        return add_costs(teachers) if len(teachers) > 1 else None

    def of_student(self) -> "RunCost":
        """The cost of the main model alone."""
        return replace(self, models=dict(list(self.models.items())[:1]))

    def write(self, folder: Path) -> None:
        """Write `cost.json` into a run folder."""
        _write_json(asdict(self), folder / COST)

    def as_dict(self) -> dict[str, Any]:
        """The costs as JSON has them, with the sums over folds."""
        data = asdict(self)
        for name, model in self.models.items():
            data["models"][name]["training_s"] = model.training_s
        if self.teachers is not None:
            data["models"][TOGETHER] = {**asdict(self.teachers), "training_s": self.teachers.training_s}
        return data


def read_cost(folder: Path) -> RunCost | None:
    """Read `cost.json` of a run folder; None where there is none, as in runs of older versions.

    Raises `ModelError` where the file is damaged.
    """
    path = folder / COST
    if not path.is_file():
        return None
    data = _read_json(path)
    try:
        models = {name: _model_cost(entry) for name, entry in data.pop("models").items()}
        return RunCost(models, **{name: data[name] for name in ("machine", "tokens", "audio_s")})
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from error


def add_costs(models: Sequence[ModelCost]) -> ModelCost:
    """The cost of running, and of having trained, models one after the other. A sum needs all of its parts.

    Memory is that of all weights, and of the tensors of one model at a time.
    """

    def total(name: str) -> Any:
        values = [getattr(model, name) for model in models]
        return None if any(value is None for value in values) else sum(values)

    weights = [model.size_bytes for model in models]
    memory = [model.memory_bytes for model in models]
    peak = None
    if None not in weights and None not in memory:
        peak = sum(weights) + max(part - size for part, size in zip(memory, weights, strict=True))  # type: ignore[arg-type, operator]
    extraction = [model.extraction_ms for model in models if model.extraction_ms is not None]
    training: dict[str, dict[str, TrainingCost]] = {}
    if all(model.training for model in models):
        for number, model in enumerate(models):
            for fold, phases in model.training.items():
                named = {f"{phase} {number + 1}": part for phase, part in phases.items()}
                training.setdefault(fold, {}).update(named)
    return ModelCost(
        total("parameters"), total("trained_parameters"), total("size_bytes"), total("macs"), peak,
        total("latency_ms"), sum(extraction) if extraction else None, None, training,
    )  # fmt: skip


def mark_as_shared(source: Path, target: Path) -> None:
    """Copy a file of `TrainingCost` with the mark that another run did the training."""
    cost = TrainingCost.read(source)
    assert cost is not None
    replace(cost, shared=True).write(target)


# --- rows of tables --------------------------------------------------------------------------------

# The keys of a row of CSV and JSON -> the title of a column.
COST_TITLES = {
    "parameters": "parameters",
    "trained_parameters": "trained",
    "size_bytes": "size",
    "macs": "MACs",
    "latency_ms": "ms",
    "memory_bytes": "memory",
    "training_s": "training",
}


def cost_row(cost: ModelCost | None) -> dict[str, float | None]:
    """The figures of a model by the keys of `COST_TITLES`; None: not known."""
    return {name: None if cost is None else getattr(cost, name) for name in COST_TITLES}


def mean_cost_row(costs: Iterable[ModelCost | None]) -> dict[str, float | None]:
    """As `cost_row`, the mean over runs such as those of several seeds; None where one is not known."""
    rows = [cost_row(cost) for cost in costs]
    means: dict[str, float | None] = {}
    for name in COST_TITLES:
        known = [value for row in rows if (value := row[name]) is not None]
        mean = known[0] if len(set(known)) == 1 else sum(known) / max(1, len(known))  # counts stay whole
        means[name] = mean if known and len(known) == len(rows) else None
    return means


@dataclass(frozen=True)
class CostRow:
    """One model of a run, or of runs that differ in their seed alone: then the figures are means."""

    run: str
    model: str
    figures: dict[str, float | None]  # by the keys of `COST_TITLES`
    ua: float | None = None  # a share


def cost_rows(
    runs: Mapping[str, Sequence[RunCost | None]],
    ua: Mapping[tuple[str, str], float] | None = None,
    brief: bool = False,
) -> list[CostRow]:
    """A row for each model of each run: the main model, the teachers, and all teachers together.

    Args:
        runs: a name -> the cost of a run, or of the runs with several seeds.
        ua: (name, model) -> UA as a share, to be shown beside.
        brief: of the teachers, only all together, or the only one. So many runs stay comparable.
    """
    rows = []
    for run, costs in runs.items():
        known = [model_costs(cost) for cost in costs if cost is not None]
        if not known or len(known) < len(costs):
            continue
        names = list(known[0])
        for name in [names[0], *names[-1:]] if brief and len(names) > 1 else names:
            figures = mean_cost_row(models.get(name) for models in known)
            rows.append(CostRow(run, name, figures, (ua or {}).get((run, name))))
    return rows


def grid_cost_rows(
    cells: Mapping[str, Sequence[RunCost | None]], ua: Mapping[str, float] | None = None
) -> list[CostRow]:
    """A row for the student of each cell of an ablation, then the teachers of the first cell, and together.

    Args:
        cells: the name of a cell -> the costs of its runs, one for each seed.
        ua: the name of a row -> UA as a share.
    """
    by_cell = {name: cost_rows({name: costs}) for name, costs in cells.items()}
    students = [CostRow(name, name, rows[0].figures) for name, rows in by_cell.items() if rows]
    teachers = [
        CostRow(row.run, row.model if row.model == TOGETHER else f"{row.model} teacher", row.figures)
        for row in next(iter(by_cell.values()), [])[1:]
    ]
    return [replace(row, run="", ua=(ua or {}).get(row.model)) for row in (*students, *teachers)]


def cost_markdown(rows: Sequence[CostRow], notes: Sequence[str]) -> str:
    """Rows of one run or grid, and notes, as Markdown; empty where there are no rows."""
    if not rows:
        return ""
    titles = known_titles([row.figures for row in rows])
    has_ua = any(row.ua is not None for row in rows)
    own = ["UA"] if has_ua else []
    lines = [["model", *own, *titles.values()], ["---", *["---:"] * (len(own) + len(titles))]]
    lines += [
        [
            row.model,
            *([_ua_cell(row)] if has_ua else []),
            *(cost_cell(name, row.figures[name]) for name in titles),
        ]
        for row in rows
    ]
    return "\n".join(
        [*("| " + " | ".join(cells) + " |" for cells in lines), "", *(f"{note}\n" for note in notes)]
    )


def compared_costs(folders: Sequence[str]) -> dict[str, dict[str, float | None]] | None:
    """The figures of runs with several seeds, as means, by model: the main one, and all teachers together.

    None where the cost of a run is not known.
    """
    rows = cost_rows({"": [read_cost(Path(folder)) for folder in folders]}, brief=True)
    return {row.model: row.figures for row in rows} if rows else None


def compared_columns(prefix: str, costs: Mapping[str, Mapping[str, float | None]] | None) -> dict[str, Any]:
    """The columns of CSV with the figures of the main model, named `<prefix>_parameters` and so on."""
    main = next(iter(costs.values())) if costs else cost_row(None)
    return {f"{prefix}_{name}": value for name, value in main.items()}


def show_costs(rows: Sequence[CostRow], notes: Sequence[str], to: Console) -> None:
    """Print rows as a table with the columns that some row knows; nothing where there are no rows."""
    if not rows:
        return
    several_runs = len({row.run for row in rows}) > 1
    has_ua = any(row.ua is not None for row in rows)
    titles = known_titles([row.figures for row in rows])
    table = Table(title="cost")
    if several_runs:
        table.add_column("run", overflow="fold")
    table.add_column("model")
    for column in (*(["UA"] if has_ua else []), *titles.values()):
        table.add_column(column, justify="right")
    for row, next_row in zip_longest(rows, rows[1:]):
        table.add_row(
            *([escape(row.run)] if several_runs else []), row.model, *([_ua_cell(row)] if has_ua else []),
            *(cost_cell(name, row.figures[name]) for name in titles),
            end_section=next_row is not None and next_row.run != row.run,
        )  # fmt: skip
    table.caption = " ".join(notes)
    to.print(table)


def _ua_cell(row: CostRow) -> str:
    return "–" if row.ua is None else f"{100 * row.ua:.1f}"


def known_titles(rows: Sequence[Mapping[str, float | None]]) -> dict[str, str]:
    """The columns of `COST_TITLES` that some row has a figure for."""
    return {
        name: title for name, title in COST_TITLES.items() if any(row.get(name) is not None for row in rows)
    }


def cost_cell(name: str, value: float | None) -> str:
    """A figure as a short text in the unit of its column, – for None."""
    if value is None:
        return "–"
    if name == "training_s":
        return format_seconds(value)
    if name == "latency_ms":
        return f"{value:.1f}"
    if name in ("size_bytes", "memory_bytes"):
        return format_bytes(value)
    return format_count(value)


def format_count(value: float) -> str:
    """A count with a prefix.

    >>> format_count(6_830_000), format_count(1_520_000_000), format_count(900)
    ('6.83 M', '1.52 G', '900')
    """
    for prefix, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:.2f} {prefix}"
    return f"{value:.0f}"


def format_seconds(seconds: float) -> str:
    """A duration for people.

    >>> format_seconds(42.31), format_seconds(754), format_seconds(9000)
    ('42.3 s', '12.6 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def model_costs(cost: RunCost) -> dict[str, ModelCost]:
    """The models of a run, and all teachers together where there are several."""
    return {**cost.models, **({} if cost.teachers is None else {TOGETHER: cost.teachers})}


def cost_notes(costs: Sequence[RunCost]) -> list[str]:
    """What the figures of these runs mean: the utterance, the machine, and what is not counted."""
    if not costs:
        return []
    models = [(name, model) for cost in costs for name, model in cost.models.items()]
    known = known_titles([cost_row(model) for _, model in models])
    notes = [
        f"Cost of one utterance of {costs[0].audio_s:g} s, in ms on one thread (median), "
        "without decoding and speech detection. It was measured once for each run, so it also depends on "
        "what else the machine did. Parameters include the heads that serve teaching alone."
    ]
    machines = list(dict.fromkeys(_machine_text(cost.machine) for cost in costs))
    if len(machines) > 1:
        notes.append(f"The ms are of different machines, so do not compare them: {'; '.join(machines)}.")
    else:
        notes.append(f"Measured on {machines[0]}.")
    explained = {
        "macs": "MACs: multiply-accumulates of the network.",
        "memory_bytes": "Memory: weights and tensors.",
        "training_s": "Training: wall clock of all folds, without the time to fill the cache.",
    }
    notes += [text for name, text in explained.items() if name in known]
    extraction = [model.extraction_ms for _, model in models if model.extraction_ms is not None]
    if extraction:
        ends = dict.fromkeys(f"{value:.1f}" for value in (min(extraction), max(extraction)))
        notes.append(
            f"The prosodic teacher's ms include {' to '.join(ends)} ms for its descriptors (LLDs), whose "
            "operations are not in its MACs."
        )
    tokens = next((cost.tokens for cost in costs if cost.tokens is not None), None)
    if tokens is not None:
        notes.append(
            f"A model of transcripts reads a typical one ({tokens} tokens). Transcripts are not included: "
            "writing one, by hand or by a speech recogniser, comes on top."
        )
    shared = list(dict.fromkeys(name for name, model in models if model.is_shared))
    if shared:
        notes.append(
            f"Another run trained a shared model, and its time counts in each run: {', '.join(shared)}."
        )
    return notes


def _machine_text(machine: Mapping[str, Any]) -> str:
    names = ("torch", "onnxruntime", "provider")
    versions = [f"{name} {machine[name]}" for name in names if machine.get(name)]
    return ", ".join([str(machine.get("cpu", "an unknown CPU")), *versions])


# --- files -----------------------------------------------------------------------------------------


def _model_cost(entry: Mapping[str, Any]) -> ModelCost:
    training = {
        fold: {phase: TrainingCost(**_fields(TrainingCost, part)) for phase, part in phases.items()}
        for fold, phases in entry.get("training", {}).items()
    }
    return ModelCost(**{**_fields(ModelCost, entry), "training": training})


def _fields(cls: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that are fields of a class; a later version may write others."""
    return {name: value for name, value in data.items() if name in cls.__dataclass_fields__}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(parse_json(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ModelError:
    return ModelError(
        f"'{path}' is damaged ({type(error).__name__}: {error}): delete it; the scores do not need it"
    )


def _write_json(data: Mapping[str, Any], path: Path) -> None:
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
