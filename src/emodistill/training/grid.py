"""The cells of an ablation: variants of one recipe, the full method.

A cell lacks one part of the method, as in the paper's ablation, or it belongs to a sweep. A sweep sets one
field of the recipe to several values, one in each cell. Cells with equal recipes share a run.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emodistill.config import Recipe, parse_recipe, toml_list
from emodistill.distillation import NO_TEACHER, TERMS, LossTerm
from emodistill.errors import ConfigError, one_of
from emodistill.training.preflight import NO_TRANSCRIPTS

FULL = "full"
PLAIN = "no-distillation"

# Cell -> section and fields that switch off an option of the method; it has a cell where the recipe uses it.
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "no-queries": ("student", {"queries": 0}),
    "no-words-first": ("student", {"words_first": None}),  # one training, in which all teachers teach
    "no-lora": ("student", {"lora": 0}),  # the layers are trained in full
    "no-certainty": ("distillation", {"certainty": None}),
    "no-further-speech": ("corpus", {"further": None, "further_words": None}),
}
PARTS = "parts"  # the group of the full method and of the cells that lack a part of it


@dataclass(frozen=True)
class Cell:
    """One recipe of a grid. Each seed has a run folder, `<folder>/seed-<k>`."""

    name: str
    group: str  # `PARTS`, or the field that is swept
    recipe: Recipe
    folder: str  # in the folder `cells`; cells with equal recipes have the same one

    def run_folder(self, out: Path, seed: int) -> Path:
        """The run folder of a seed."""
        return out / "cells" / self.folder / f"seed-{seed}"

    def with_seed(self, seed: int) -> Recipe:
        """The recipe with this seed."""
        return self.recipe.model_copy(update={"seed": seed})


@dataclass(frozen=True)
class Grid:
    """Cells, the full method first."""

    cells: tuple[Cell, ...]
    left_out: dict[str, str]  # cell that cannot be run -> reason

    @property
    def distinct_cells(self) -> tuple[Cell, ...]:
        """The cells to run: the first of those with equal recipes."""
        return tuple({cell.folder: cell for cell in reversed(self.cells)}.values())[::-1]


def make_grid(
    recipe: Recipe,
    sweeps: Sequence[str] = (),
    parts: bool = True,
    has_transcripts: bool = True,
    only: Sequence[str] | None = None,
) -> Grid:
    """Return the grid of a recipe, which is the full method.

    Args:
        sweeps: each "field=value,value", such as "distillation.temperature=1,2,4". Values may be TOML.
        parts: whether there are cells that lack a part of the method.
        has_transcripts: without transcripts the linguistic teacher and its cells are left out.
        only: the names of the cells to run beside the full method; default: all.

    Raises `ConfigError` for a recipe without student, an unknown field or cell, or a bad value.
    """
    if recipe.student is None:
        raise ConfigError(
            "an ablation compares students, but this recipe has student = 'none': choose a recipe with one"
        )
    requested = recipe.distillation.teachers
    teachers = tuple(name for name in requested if has_transcripts or name != "linguistic")
    full = _with_values(recipe, "distillation", teachers=teachers)
    swept = sweep_variants(full, sweeps)
    variants = [(FULL, PARTS, full)]
    if parts:
        variants += [(name, PARTS, part) for name, part in _parts(full, requested)]
    variants += swept
    if parts and not requested and not sweeps:
        raise ConfigError(
            "nothing to ablate: the recipe has no teachers; give it some "
            "(--set 'distillation.teachers=[\"prosodic\"]'), or give a --sweep"
        )
    cells: list[Cell] = []
    folders: dict[str, str] = {}
    for name, group, variant in variants:
        folder = folders.setdefault(variant.model_dump_json(), _folder_name(name, set(folders.values())))
        cells.append(Cell(name, group, variant, folder))
    left_out = {}
    if not has_transcripts and "linguistic" in requested:
        left_out = dict.fromkeys(_linguistic_cells(requested), NO_TRANSCRIPTS)
        cells = [cell for cell in cells if cell.name not in left_out]
    if only is not None:
        for name in only:
            if name not in left_out and name not in [cell.name for cell in cells]:
                raise ConfigError(one_of("cell", name, [cell.name for cell in cells]))
        cells = [cell for cell in cells if cell.name in (FULL, *only)]
    return Grid(tuple(cells), left_out)


def sweep_variants(full: Recipe, sweeps: Sequence[str]) -> list[tuple[str, str, Recipe]]:
    """The name, group and recipe of each value of each sweep. Raises `ConfigError` as `make_grid` does."""
    return [
        (f"{field}={value_name(value)}", field, with_fields(full, {field: value}, f"--sweep {field}"))
        for field, values in map(parse_sweep, sweeps)
        for value in values
    ]


def parse_sweep(sweep: str) -> tuple[str, list[Any]]:
    """The field and the values of a sweep "field=value,value". Values that are not TOML are text."""
    field, sign, text = sweep.partition("=")
    field = field.strip()
    if not sign or not field or not text.strip():
        raise ConfigError(
            f"bad sweep '{sweep}', expected field=value,value, such as distillation.temperature=1,2,4"
        )
    if field == "seed":
        raise ConfigError(
            f"bad sweep '{sweep}': seeds are no sweep, every cell is run with each; give --seeds {text}"
        )
    return field, toml_list(text)


def _parts(full: Recipe, requested: Sequence[str]) -> list[tuple[str, Recipe]]:
    """The cells that lack a part of the method.

    They lack all teachers, all teachers but one, one teacher of more than two, all loss terms but one, one
    term, or one option. The cells of terms come from the registry of loss terms, those of options from
    `OPTIONS`. What the full method does not use has no cell.
    """
    teachers = full.distillation.teachers
    cells = [(PLAIN, _with_values(full, "distillation", teachers=()))]
    cells += [(f"{name}-only", _with_values(full, "distillation", teachers=(name,))) for name in requested]
    if len(teachers) > 2:
        for name in teachers:
            rest = tuple(item for item in teachers if item != name)
            cells.append((f"no-{name}", _with_values(full, "distillation", teachers=rest)))
    if not teachers:
        return cells
    terms = [term for term in TERMS if term.is_on(full)]
    cells += [(term.cell_alone, _alone(full, term)) for term in reversed(terms) if term.cell_alone]
    cells += [(term.cell_without, _without(full, term)) for term in terms if term.cell_without]
    options = [(name, _with_values(full, section, **off)) for name, (section, off) in OPTIONS.items()]
    if "linguistic" not in teachers:
        options = [(name, variant) for name, variant in options if name != "no-words-first"]
    student = full.student
    if student is not None and student.layers is not None and 0 < student.frozen < student.layers:
        options.append(("no-trained-layers", _with_values(full, "student", frozen=student.layers, lora=0)))
    return cells + [(name, variant) for name, variant in options if variant != full]


def _alone(full: Recipe, term: LossTerm) -> Recipe:
    """The recipe in which this is the only term that reads teachers."""
    fitting = [other for other in TERMS if other.fits(full.has_emotions, bool(full.dimensions))]
    others = [other for other in fitting if other is not term and NO_TEACHER not in other.teachers]
    return _with_values(full, "distillation", **{other.weight: 0.0 for other in others})


def _without(full: Recipe, term: LossTerm) -> Recipe:
    """The recipe without a term. Without that of the labels, probe and refit use no labels either."""
    recipe = _with_values(full, "distillation", **{term.weight: 0.0})
    if NO_TEACHER not in term.teachers:
        return recipe
    if term.of == "emotion" and recipe.student is not None and recipe.student.probe is not None:
        recipe = _with_values(recipe, "student", probe=None)
    return _with_values(recipe, "protocol", refit=False) if recipe.protocol.refit == "classifier" else recipe


def _linguistic_cells(requested: Sequence[str]) -> list[str]:
    """The names of the cells that are about the linguistic teacher alone."""
    return ["linguistic-only", *(["no-linguistic"] if len(requested) > 2 else [])]


def _with_values(recipe: Recipe, section: str, **values: Any) -> Recipe:
    data = recipe.model_dump()
    data[section] = {**data[section], **values}
    return parse_recipe(data)


def with_fields(recipe: Recipe, values: Mapping[str, Any], source: str) -> Recipe:
    """The recipe with other values of some fields, by names such as "student.optim.lr".

    `source` is what messages call them. Raises `ConfigError` for an unknown field or a bad value.
    """
    data = recipe.model_dump()
    for field, value in values.items():
        *parents, last = field.split(".")
        table: Any = data
        for parent in parents:
            table = table.setdefault(parent, {}) if isinstance(table, dict) else None
        if not isinstance(table, dict):
            raise ConfigError(f"{source}: bad field '{field}': recipes have no such field")
        table[last] = value
    return parse_recipe(data, source)


def value_name(value: Any) -> str:
    """A value as a cell's name shows it: of a path, the last part."""
    if isinstance(value, list):
        return "+".join(map(value_name, value)) or "nothing"
    return Path(value).name if isinstance(value, str) and "/" in value else str(value)


def _folder_name(name: str, taken: set[str]) -> str:
    """The name of a cell as a folder name that no other cell has."""
    folder = re.sub(r"[^\w.=+-]", "_", name)
    number = 2
    while folder in taken:
        folder, number = f"{re.sub(r'~[0-9]+$', '', folder)}~{number}", number + 1
    return folder
