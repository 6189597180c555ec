"""Check that each shipped recipe begins with its command, its score and its time, and that docs/results.md
has them.

    python scripts/recipes.py

A recipe begins with three comments. Each may go on in lines that begin with `#   `:

    # Command: emodistill crossval NAME …
    # Score: 76.79 UA and 77.11 WA on test      (or: not measured, with the reason)
    # Time: 215 s on two cores                  (or: not measured)

docs/results.md must have the command, and one of the sections with the command must have all numbers of score
and time. The exit code is 1 if a recipe differs.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results.md"
FIELDS = ("Command", "Score", "Time")


def head(recipe: str) -> dict[str, str]:
    """Return the fields that a recipe begins with, each as one line."""
    fields: dict[str, str] = {}
    name = ""
    for line in recipe.splitlines():
        if field := re.match(r"# (\w+): (.*)", line):
            name = field[1]
            fields[name] = field[2]
        elif name and line.startswith("#   "):
            fields[name] += f" {line[1:]}"
        else:
            break
    return {name: one_line(text) for name, text in fields.items()}


def one_line(text: str) -> str:
    """Return a text with single spaces, and without the backslashes that continue a command."""
    return " ".join(text.replace("\\\n", " ").replace(" \\ ", " ").split())


def sections(page: str) -> list[str]:
    """Return the sections of a page, from each heading of level 2 to the next one, each as one line."""
    return [one_line(section) for section in re.split(r"^## ", page, flags=re.M)]


def problems(recipe: str, page: str) -> Iterator[str]:
    """Yield what is wrong with the beginning of a recipe."""
    fields = head(recipe)
    if tuple(fields) != FIELDS:
        yield f"begins with {list(fields)}, expected {list(FIELDS)}"
        return
    with_command = [section for section in sections(page) if fields["Command"] in section]
    if not with_command:
        yield f"docs/results.md does not have the command: {fields['Command']}"
        return
    numbers = [number for name in ("Score", "Time") for number in re.findall(r"\d+(?:\.\d+)?", fields[name])]
    missing = min(
        ([number for number in numbers if not has_number(section, number)] for section in with_command),
        key=len,
    )
    if missing:
        yield f"docs/results.md has the command, but beside it not the numbers {missing}"


def has_number(section: str, number: str) -> bool:
    """Return whether a section has this number, and not only as a part of a longer one."""
    return re.search(rf"(?<![\d.]){re.escape(number)}(?!\.?\d)", section) is not None


def main() -> int:
    """Print the problems of all shipped recipes, and return the exit code."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    page = RESULTS.read_text(encoding="utf-8")
    recipes = sorted((ROOT / "src" / "emodistill" / "recipes").glob("*.toml"))
    lines = [
        f"{path.relative_to(ROOT)}: {problem}"
        for path in recipes
        for problem in problems(path.read_text(encoding="utf-8"), page)
    ]
    print("\n".join([*lines, f"{len(lines)} problems in {len(recipes)} recipes"]))
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
