"""Write the parts of README.md and docs/*.md that come from the registries of the package.

    python scripts/docs_tables.py          # writes them
    python scripts/docs_tables.py --check  # writes nothing; exit code 1 if a page differs

A page has such a part between `<!-- begin NAME -->` and `<!-- end NAME -->`, where NAME is a key of `PARTS`.
To add a part, add a function here and the two markers to a page.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from emodistill.corpora import READERS, Reader
from emodistill.inference.dimensions import COORDINATES
from emodistill.labels import scale_text

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/*.md")


def corpora_table() -> str:
    """Return the overview of all corpora as a Markdown table."""
    lines = [
        "| name | language | utterances | speakers | emotions | dimensions | licence | tested on |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for reader in READERS.values():
        languages = ", ".join(reader.languages.values())
        if len(reader.languages) > 3:
            languages = f"{len(reader.languages)} languages"
        counts = (reader.utterances, reader.speakers, reader.emotions)
        cells = (
            f"`{reader.name}`",
            languages,
            *counts,
            _dimensions(reader),
            reader.licence,
            reader.tested_on,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n" + "\n".join(lines) + "\n"


def corpora_sections() -> str:
    """Return one section for each reader module: its facts, its docstring and the command that reads it."""
    return "\n" + "\n".join(_corpus_section(readers) for readers in _by_module().values())


def corpora_count() -> str:
    """Return the number of corpora that users get from their authors."""
    return str(sum(any(reader.packaged is None for reader in readers) for readers in _by_module().values()))


def coordinates() -> str:
    """Return the arousal and the valence of each emotion as a Markdown table."""
    lines = ["| emotion | arousal | valence |", "| --- | ---: | ---: |"]
    lines += [
        f"| {emotion} | {arousal:.3f} | {valence:.3f} |"
        for emotion, (arousal, valence) in COORDINATES.items()
    ]
    return "\n" + "\n".join(lines) + "\n"


PARTS: Mapping[str, Callable[[], str]] = {
    "corpora-table": corpora_table,
    "corpora-sections": corpora_sections,
    "corpora-count": corpora_count,
    "coordinates": coordinates,
}


def _dimensions(reader: Reader) -> str:
    """Return the dimensions of a corpus with their scale, such as `intensity 1..2`; empty without any."""
    return "" if reader.scale is None else f"{', '.join(reader.dimensions)} {scale_text(reader.scale)}"


def _by_module() -> dict[str, list[Reader]]:
    modules: dict[str, list[Reader]] = {}
    for reader in READERS.values():
        modules.setdefault(reader.read.__module__, []).append(reader)
    return modules


def _corpus_section(readers: list[Reader]) -> str:
    reader = readers[0]
    summary, *paragraphs = reader.description.split("\n\n")
    names = " and ".join(reader.name for reader in readers)
    cite = reader.citation if isinstance(reader.citation, str) else reader.citation.text()
    address = f"<{reader.url}>" if reader.url else "part of this package"
    facts = [
        f"- Cite: {_linked(cite)}.",
        f"- Licence: {reader.licence}. Address: {address}.",
    ]
    if reader.dimensions:
        facts.append(f"- Dimensions: {_dimensions(reader)}.")
    command = "emodistill corpus prepare {} DIR -o utterances.csv"
    if reader.packaged:
        command = "emodistill corpus audit {}"
    commands = [command.format(each.name) for each in readers]
    return "\n\n".join(
        [
            f"## {names}",
            summary,
            "\n".join(facts),
            *(re.sub(r"^([A-Z][a-z ]+):", r"**\1:**", paragraph) for paragraph in paragraphs),
            "\n".join(["```", *commands, "```", ""]),
        ]
    )


def _linked(text: str) -> str:
    return re.sub(r"https?://[^\s,]+", r"<\g<0>>", text)


def filled(text: str, page: str) -> str:
    """Return a page's text with all of its parts written anew.

    Raises `SystemExit` where a marker names no part.
    """

    def part(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in PARTS:
            sys.exit(f"{page}: no part '{name}', expected one of {list(PARTS)}")
        return f"<!-- begin {name} -->{PARTS[name]()}<!-- end {name} -->"

    return re.sub(r"<!-- begin (?P<name>[\w-]+) -->.*?<!-- end (?P=name) -->", part, text, flags=re.S)


def changed_pages() -> Iterator[tuple[Path, str]]:
    """Yield each page that differs from the registries, with the text that it must have."""
    for path in sorted(path for pattern in PAGES for path in ROOT.glob(pattern)):
        text = path.read_text(encoding="utf-8")
        expected = filled(text, str(path.relative_to(ROOT)))
        if expected != text:
            yield path, expected


def main() -> int:
    """Return the exit code: 1 where `--check` finds a page that differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; report pages that differ")
    options = parser.parse_args()
    pages = list(changed_pages())
    for path, expected in pages:
        name = path.relative_to(ROOT)
        if options.check:
            print(f"{name} differs from the registries: run python scripts/docs_tables.py")
        else:
            path.write_text(expected, encoding="utf-8")
            print(f"written: {name}")
    return 1 if options.check and pages else 0


if __name__ == "__main__":
    sys.exit(main())
