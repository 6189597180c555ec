"""The scripts that `make lint` runs: what they accept and what they refuse."""

import tomllib
from pathlib import Path

import pytest
from factories_scripts import ROOT, load_script

from emodistill import __version__

house, lowest, recipes, sentences = map(load_script, ("house", "lowest", "recipes", "sentences"))

PAGE = """# Results

## RAVDESS

| student | 76.79 | 77.1 |

```
emodistill crossval a --set corpus.root=RAVDESS \\
  --set seed=1 -o out
```

## Demo

`emodistill demo` has 58.3.
"""
RECIPE = """# Command: emodistill crossval a --set corpus.root=RAVDESS \\
#   --set seed=1
# Score: {score}
# Time: not measured
#
# Some prose.
name = "a"
"""


# --- recipes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("score", "missing"),
    [
        ("76.79 UA and 77.1 WA", None),
        ("not measured", None),
        ("76.7 UA", "76.7"),  # a part of a number is another number
        ("6.79 UA", "6.79"),
        ("77.11 WA", "77.11"),
        ("58.3 UA", "58.3"),  # stands in a section without the command
    ],
)
def test_numbers_of_a_recipe_must_stand_beside_its_command(score: str, missing: str | None) -> None:
    problems = list(recipes.problems(RECIPE.format(score=score), PAGE))
    if missing is None:
        assert problems == []
    else:
        assert problems == [f"docs/results.md has the command, but beside it not the numbers ['{missing}']"]


def test_a_recipe_must_begin_with_its_command_and_the_page_must_have_it() -> None:
    (problem,) = recipes.problems('name = "a"\n', PAGE)
    assert problem == "begins with [], expected ['Command', 'Score', 'Time']"
    other = RECIPE.format(score="76.79 UA").replace("seed=1", "seed=2")
    (problem,) = recipes.problems(other, PAGE)
    assert problem.startswith("docs/results.md does not have the command: emodistill crossval a")


# --- length of functions and files ---------------------------------------------------------------


def function(num_lines: int, parameters: str = "", above: str = "") -> str:
    """The source of a function with this number of lines."""
    return f"{above}def f({parameters}):\n" + "    pass\n" * (num_lines - 1)


@pytest.mark.parametrize(
    ("source", "num_problems"),
    [
        (function(60), 0),
        (function(61), 1),
        (function(61, above="# Long: one step for each format.\n"), 0),
        (function(61, above="# Long: one step for each format,\n# in order.\n@cache\n"), 0),
        (function(61, above="# Long: one step for each format.\n\n"), 1),
        (function(61, above="# Another comment.\n"), 1),
        (function(2, "a, b, c, d, e, f, g, h"), 0),
        (function(2, "self, a, b, c, d, e, f, *, g, h"), 0),
        (function(2, "a, b, c, d, e, f, *args, g, **h"), 1),
        ('"""What it is."""\n\nimport os\n' + "x = 1\n" * 448, 1),
        ('"""What it is."""\n\n# Long: a table.\nimport os\n' + "x = 1\n" * 448, 0),
        ("x = 1\n" * 450, 0),
    ],
)
def test_long_functions_and_files_need_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, num_problems: int
) -> None:
    monkeypatch.setattr(house, "ROOT", tmp_path)
    path = tmp_path / "a.py"
    path.write_text(source)
    assert len(list(house.problems(path))) == num_problems


# --- length of sentences -------------------------------------------------------------------------


def test_sentences_of_docstrings_comments_and_pages_are_counted(tmp_path: Path) -> None:
    code, page = tmp_path / "a.py", tmp_path / "a.md"
    code.write_text('"""One two three. Four five.\n\nSix."""\n\nx = 1  # seven eight nine ten\n')
    page.write_text(
        "# Title\n\nOne `two three four` five.\n\n- six seven\n- eight\n\n```\nno prose here\n```\n"
    )
    found = [(words, line, text) for words, _, line, text in sentences.find([code, page])]
    assert (4, 5, "seven eight nine ten") in found
    assert (3, 1, "One two three.") in found
    assert (3, 3, "One code five.") in found
    assert (1, 3, "Six.") in found
    assert not any("prose" in text for _, _, text in found)


# --- versions ------------------------------------------------------------------------------------


def test_every_requirement_has_a_lowest_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra in project["optional-dependencies"]:
        if extra != "dev":
            assert all("==" in pin for pin in lowest.floors((extra,)))


def test_torch_is_installed_at_the_tested_version() -> None:
    assert lowest.tested_torch() in lowest.floors(("train",))


def test_the_citation_has_the_version_of_the_package() -> None:
    lines = (ROOT / "CITATION.cff").read_text(encoding="utf-8").splitlines()
    assert f"version: {__version__}" in lines
