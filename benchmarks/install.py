"""Size of an install without extras, in a fresh environment: python benchmarks/install.py

Installs this checkout with pip from the configured package index, as a user would, without pip itself in the
environment, and adds up what lies in site-packages (compiled .pyc files too).
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_MB = 210
FORBIDDEN = ("torch", "transformers", "lightning", "opensmile", "scipy", "sklearn", "pandas", "sympy")


def size_mb(folder: Path) -> float:
    """What the files of a folder take on disk, in blocks of 2^20 bytes as `du -m` counts."""
    return sum(path.lstat().st_blocks * 512 for path in (folder, *folder.rglob("*"))) / 2**20


def main() -> int:
    """Measure and print; 1 where the install is too large or holds what it must not."""
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
    print(f"at most {MOST_MB} MB; none of {', '.join(FORBIDDEN)}: {heavy or 'kept'}")
    return int(total > MOST_MB or bool(heavy))


if __name__ == "__main__":
    sys.exit(main())
