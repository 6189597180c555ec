"""List files and functions of src that are too long, and refuse those that give no reason.

    python scripts/house.py

A file may have 450 lines. A function may have 60 lines, with its docstring, and 8 parameters without self.
More is allowed with a reason: a comment `# Long: …` directly above a function, or above the first statement
of a file. The exit code is 1 if a reason is missing.
"""

import argparse
import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 8
REASON = "# Long: "

Function = ast.FunctionDef | ast.AsyncFunctionDef


def problems(path: Path) -> Iterator[str]:
    """Yield one line of text for each file or function that is too long and gives no reason."""
    source = path.read_text(encoding="utf-8")
    lines, tree = source.splitlines(), ast.parse(source)
    name = path.relative_to(ROOT)
    if len(lines) > MAX_FILE_LINES and not has_reason(lines, first_statement(tree)):
        yield f"{name}: {len(lines)} lines, at most {MAX_FILE_LINES}"
    for node in ast.walk(tree):
        if isinstance(node, Function):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            parameters = count_parameters(node)
            too_long = length > MAX_FUNCTION_LINES or parameters > MAX_PARAMETERS
            if too_long and not has_reason(lines, first_line(node)):
                yield (
                    f"{name}:{node.lineno}: {node.name} has {length} lines and {parameters} parameters, "
                    f"at most {MAX_FUNCTION_LINES} and {MAX_PARAMETERS}"
                )


def first_statement(tree: ast.Module) -> int:
    """Return the line of the first statement after the module's docstring, counted from 1."""
    body = tree.body[1:] if ast.get_docstring(tree) is not None else tree.body
    return body[0].lineno if body else 1


def first_line(node: Function) -> int:
    """Return the line of a function's first decorator, or of its `def`, counted from 1."""
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def has_reason(lines: list[str], line: int) -> bool:
    """Return whether the comment that ends directly above a line has a line that begins with `# Long: `."""
    index = line - 2
    while index >= 0 and lines[index].lstrip().startswith("#"):
        if lines[index].lstrip().startswith(REASON):
            return True
        index -= 1
    return False


def count_parameters(node: Function) -> int:
    """Return the number of parameters without self and cls."""
    arguments = node.args
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    names += [argument.arg for argument in (arguments.vararg, arguments.kwarg) if argument is not None]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def main() -> int:
    """Print the problems, and return the exit code."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    paths = sorted((ROOT / "src").rglob("*.py"))
    found = [problem for path in paths for problem in problems(path)]
    print("\n".join(found))
    print(f"{len(found)} too long without a reason, in {len(paths)} files")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
