"""List the longest sentences of README, docs, docstrings and comments, and refuse those over 35 words.

    python scripts/sentences.py            # exit code 1 where a sentence has more than 35 words
    python scripts/sentences.py --most 25  # lists every sentence of more than 25 words

A sentence ends at a full stop, a colon, a question mark, an empty line, a list item or a table cell. Code
counts as one word.
"""

import argparse
import ast
import io
import json
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("src", "tests", "benchmarks", "scripts")
PAGES = (
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**/*.md", "docs/**/*.ipynb", "js/*.md",
)  # fmt: skip

Sentence = tuple[int, str, int, str]  # words, file, line, text


def sentences(text: str) -> Iterator[tuple[int, str]]:
    """The sentences of a text, each with the number of the line that it begins in, counted from 0."""
    text = re.sub(r"```.*?```", lambda found: "\n" * found[0].count("\n"), text, flags=re.S)
    text = re.sub(r"`[^`]*`", lambda found: "code" + "\n" * found[0].count("\n"), text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    start = 0
    for end in re.finditer(r"[.!?:]['\")*]*(?=\s|$)|\n[ \t]*\n|\n[ \t]*(?=[-*#>]|\d+\. )|\||$", text):
        part = text[start : end.end()]
        if part.strip():
            lead = len(part) - len(part.lstrip())
            yield text.count("\n", 0, start + lead), " ".join(part.split())
        start = end.end()


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """The prose of a file with the line that it begins in: a whole page, or docstrings and comments.

    The text of a notebook begins in line 1, because nobody edits its JSON by line.
    """
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        for cell in json.loads(source)["cells"]:
            if cell["cell_type"] == "markdown":
                yield 1, "".join(cell["source"])
        return
    if path.suffix != ".py":
        yield 1, source
        return
    for node in ast.walk(ast.parse(source)):
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, kinds) and (docstring := ast.get_docstring(node)):
            first = node.body[0].lineno
            parts = re.split(r"\n(?=[ \t]{4,}\S)", docstring)  # entries of Args, and lines of code
            for part in parts:
                yield first, part
                first += part.count("\n") + 1
    block: list[str] = []
    last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        line = token.start[0]
        if block and (line != last + 1 or token.line[: token.start[1]].strip()):
            yield last - len(block) + 1, "\n".join(block)
            block = []
        block.append(token.string.lstrip("#: "))
        last = line
    if block:
        yield last - len(block) + 1, "\n".join(block)


def find(paths: list[Path]) -> list[Sentence]:
    """All sentences of these files, the longest first."""
    found: list[Sentence] = []
    for path in paths:
        name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
        for first, text in texts(path):
            found += [
                (len(sentence.split()), name, first + line, sentence) for line, sentence in sentences(text)
            ]
    return sorted(found, key=lambda sentence: (-sentence[0], *sentence[1:]))


def main() -> int:
    """The exit code: 1 where a sentence is too long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--most", type=int, default=35, help="words that a sentence may have (default: 35)")
    parser.add_argument("paths", nargs="*", type=Path, help="files or folders (default: all)")
    options = parser.parse_args()
    chosen = [path.resolve() for path in options.paths] or [
        *(page for pattern in PAGES for page in sorted(ROOT.glob(pattern))),
        *(ROOT / folder for folder in FOLDERS),
    ]
    files = [file for path in chosen for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]
    found = find(files)
    long = [sentence for sentence in found if sentence[0] > options.most]
    for words, name, line, sentence in long or found[:5]:
        print(f"{words} words  {name}:{line}: {sentence[:160]}")
    print(f"{len(long)} of {len(found)} sentences have over {options.most} words")
    return 1 if long else 0


if __name__ == "__main__":
    sys.exit(main())
