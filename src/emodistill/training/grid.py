"""The grid of an ablation: which cells there are, and which cannot be run.

The parts of the method are taken away one at a time, as in the paper's ablation; a sweep sets one field of the recipe
to several values. Two cells of one recipe are one run.
"""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emodistill.config import Recipe, parse_recipe
from emodistill.errors import ConfigError, one_of

FULL = "full"
PLAIN = "no-distillation"


@dataclass(frozen=True)
class Cell:
    """One recipe of a grid; every seed of it is a run folder, `<folder>/seed-<k>`."""

    name: str
    group: str  # "parts", or the field that is swept
    recipe: Recipe
    folder: str  # inside the grid's; that of an earlier cell, where the recipe is the same

    def run(self, out: Path, seed: int) -> Path:
        """The run folder of a seed."""
        return out / "cells" / self.folder / f"seed-{seed}"

    def seeded(self, seed: int) -> Recipe:
        """The recipe with this seed."""
        return self.recipe.model_copy(update={"seed": seed})


@dataclass(frozen=True)
class Grid:
    """Cells, the full method first, and those that cannot be run, with the reason."""

    cells: tuple[Cell, ...]
    left_out: dict[str, str]

    @property
    def distinct(self) -> tuple[Cell, ...]:
        """The cells to be run: of several with one recipe, the first."""
        return tuple({cell.folder: cell for cell in reversed(self.cells)}.values())[::-1]


def make_grid(
    recipe: Recipe,
    sweeps: Sequence[str] = (),
    parts: bool = True,
    words: bool = True,
    only: Sequence[str] | None = None,
) -> Grid:
    """The grid of a recipe, which is the full method.

    Args:
        sweeps: "field=value,value", such as "distillation.temperature=1,2,4"; the values may be a TOML list.
        parts: whether parts of the method are taken away.
        words: whether there are transcripts; without, the linguistic teacher and its cells are left out.
        only: the names of the cells that are wanted; the full method always is.

    Raises `ConfigError` for a recipe without student, an unknown field or cell, or a bad value.
    """
    if recipe.student is None:
        raise ConfigError(
            "an ablation takes parts away from a student's teaching; this recipe has student = 'none'"
        )
    asked = recipe.distillation.teachers
    teachers = tuple(name for name in asked if words or name != "linguistic")
    full = _with(recipe, "distillation", teachers=teachers)
    proposed = [(FULL, "parts", full)]
    if parts:
        proposed += [(name, "parts", part) for name, part in _parts(full, asked)]
    for sweep in sweeps:
        field, values = parse_sweep(sweep)
        proposed += [(f"{field}={_shown(value)}", field, _set(full, field, value)) for value in values]
    if parts and not asked and not sweeps:
        raise ConfigError(
            "nothing to ablate: the recipe has no teacher that could be taken away; give it some "
            "(--set 'distillation.teachers=[\"prosodic\"]'), or a --sweep"
        )
    cells: list[Cell] = []
    folders: dict[str, str] = {}
    for name, group, made in proposed:
        folder = folders.setdefault(made.model_dump_json(), _folder(name, set(folders.values())))
        cells.append(Cell(name, group, made, folder))
    left_out = {}
    if not words and "linguistic" in asked:
        left_out = dict.fromkeys(_of_linguistic(asked), "there are no transcripts in training")
        cells = [cell for cell in cells if cell.name not in left_out]
    if only is not None:
        for name in only:
            if name not in left_out and name not in [cell.name for cell in cells]:
                raise ConfigError(one_of("cell", name, [cell.name for cell in cells]))
        cells = [cell for cell in cells if cell.name in (FULL, *only)]
    return Grid(tuple(cells), left_out)


def parse_sweep(sweep: str) -> tuple[str, list[Any]]:
    """A sweep "field=value,value" as its field and values: TOML where they are, text otherwise."""
    field, sign, text = sweep.partition("=")
    field = field.strip()
    if not sign or not field or not text.strip():
        raise ConfigError(
            f"bad sweep '{sweep}', expected field=value,value, such as distillation.temperature=1,2,4"
        )
    if field == "seed":
        raise ConfigError(f"bad sweep '{sweep}': every cell is run with every seed; give --seeds {text}")
    try:
        values = tomllib.loads(f"values = [{text}]")["values"]
    except tomllib.TOMLDecodeError:
        values = [_value(item.strip()) for item in text.split(",")]
    return field, list(values)


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _parts(full: Recipe, asked: Sequence[str]) -> list[tuple[str, Recipe]]:
    """What the paper takes away, and each teacher's absence where there are more than two."""
    teachers = full.distillation.teachers
    found = [(PLAIN, _with(full, "distillation", teachers=()))]
    found += [(f"{name}-only", _with(full, "distillation", teachers=(name,))) for name in asked]
    if len(teachers) > 2:
        for name in teachers:
            rest = tuple(item for item in teachers if item != name)
            found.append((f"no-{name}", _with(full, "distillation", teachers=rest)))
    if teachers:
        found += [
            ("embedding-level-only", _with(full, "distillation", alpha=0.0, hidden=0.0)),
            ("logit-level-only", _with(full, "distillation", beta=0.0, hidden=0.0)),
            ("no-hard-label", _without_labels(full)),
        ]
    if full.distillation.hidden and "acoustic" in teachers:
        found.append(("no-hidden-states", _with(full, "distillation", hidden=0.0)))
    return found


def _without_labels(full: Recipe) -> Recipe:
    """A student that sees no label: neither in its loss, nor where it starts, nor in a classifier that is fitted again."""
    found = _with(full, "distillation", gamma=0.0)
    if found.student is not None and found.student.probe is not None:
        found = _with(found, "student", probe=None)
    return _with(found, "protocol", refit=False) if found.protocol.refit == "classifier" else found


def _of_linguistic(asked: Sequence[str]) -> list[str]:
    """The cells that are nothing without words."""
    return ["linguistic-only", *(["no-linguistic"] if len(asked) > 2 else [])]


def _with(recipe: Recipe, section: str, **values: Any) -> Recipe:
    data = recipe.model_dump()
    data[section] = {**data[section], **values}
    return parse_recipe(data)


def _set(recipe: Recipe, field: str, value: Any) -> Recipe:
    data = recipe.model_dump()
    *parents, last = field.split(".")
    table: Any = data
    for parent in parents:
        table = table.setdefault(parent, {}) if isinstance(table, dict) else None
    if not isinstance(table, dict):
        raise ConfigError(f"bad sweep of '{field}': that is no field of a recipe")
    table[last] = value
    return parse_recipe(data, f"--sweep {field}")


def _shown(value: Any) -> str:
    """A value in a cell's name; a path by its last part."""
    if isinstance(value, list):
        return "+".join(map(_shown, value)) or "nothing"
    return Path(value).name if isinstance(value, str) and "/" in value else str(value)


def _folder(name: str, taken: set[str]) -> str:
    made = re.sub(r"[^\w.=+-]", "_", name)
    number = 2
    while made in taken:
        made, number = f"{re.sub(r'~[0-9]+$', '', made)}~{number}", number + 1
    return made
