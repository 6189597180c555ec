"""Measures the size of an install without extras.

    python benchmarks/install.py

pip installs this checkout into a fresh virtual environment, with the versions of constraints.txt. The size is
that of site-packages, with compiled .pyc files and without pip itself. The exit code is 1 if the install is
too large or has packages that only training needs.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAX_MB = 210
FORBIDDEN = ("torch", "transformers", "lightning", "opensmile", "scipy", "sklearn", "pandas", "sympy")


def size_mb(folder: Path) -> float:
    """Return the disk space of a folder in units of 2^20 bytes, as `du -m` counts it."""
    return sum(path.lstat().st_blocks * 512 for path in (folder, *folder.rglob("*"))) / 2**20


def main() -> int:
    """Print the sizes and return the exit code."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        python = str(Path(folder) / "bin" / "python")
        pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
        subprocess.run([*pip, "--constraint", str(ROOT / "constraints.txt"), str(ROOT)], check=True)
        packages = next(Path(folder).glob("**/site-packages"))
        parts = {path.name: size_mb(path) for path in packages.iterdir() if path.is_dir()}
        total = size_mb(packages)
        subprocess.run([python, "-c", "import emodistill; emodistill.Recognizer"], check=True)
    print("| part | MB |\n| --- | --- |")
    for name, size in sorted(parts.items(), key=lambda part: -part[1])[:10]:
        print(f"| {name} | {size:.1f} |")
    print(f"| **all of site-packages** | **{total:.1f}** |")
    heavy = [name for name in FORBIDDEN if name in parts]
    print(
        f"allowed: at most {MAX_MB} MB, and none of {', '.join(FORBIDDEN)}; of these found: {heavy or 'none'}"
    )
    return int(total > MAX_MB or bool(heavy))


if __name__ == "__main__":
    sys.exit(main())
