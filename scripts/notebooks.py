"""Execute the notebooks of the documentation and save their outputs.

    python scripts/notebooks.py          # all of docs/notebooks
    python scripts/notebooks.py PATH     # one notebook

Each notebook runs in an empty folder. Its outputs hold no times and no paths of this machine, so that a
notebook changes only where its results do.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "docs" / "notebooks"
TIMEOUT_S = 300  # of one cell


def execute(path: Path, folder: Path) -> nbformat.NotebookNode:
    """Return the notebook with its outputs, run in `folder`.

    Raises `nbclient.exceptions.CellExecutionError` where a cell fails, and `ValueError` where an output holds
    a path of this machine.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT_S,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
    )
    client.execute()
    for cell in notebook.cells:
        outputs = nbformat.writes(nbformat.v4.new_notebook(cells=[cell]))
        for private in (str(ROOT), str(folder), sys.prefix):
            if private in outputs:
                raise ValueError(f"{path.name}: an output holds the path '{private}': {cell.source[:60]}")
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def main() -> int:
    """Execute the notebooks, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path, help="notebooks (default: all)")
    for path in parser.parse_args().paths or sorted(NOTEBOOKS.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as folder:
            notebook = execute(path, Path(folder))
        nbformat.write(notebook, path)
        print(f"executed: {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
