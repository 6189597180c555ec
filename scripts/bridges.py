"""Test the bridges to programs of others, each in a virtual environment of its own.

    make bridges                               # all
    python scripts/bridges.py lhotse datasets  # some

These programs are large, and some need packages that disagree with ours. So CI does not install them. For
each bridge the script makes an environment below `.bridges/` (or `EMODISTILL_BRIDGES`). It installs this
checkout and the other program there, and runs `tests/bridges/test_NAME.py`. It uses an existing environment
again.
It stops after all bridges, with exit code 1 if a test failed.
"""

import argparse
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTEST = ("pytest>=8.2", "pytest-timeout>=2.3", "hypothesis>=6.100")
# The name of the bridge: extras of this package, and requirements beside them.
BRIDGES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "audb": (("audb",), ()),
    "datasets": (("datasets",), ("torch>=2.9",)),
    "lhotse": ((), ("lhotse>=1.30", "kaldiio>=2.18", "torch>=2.9", "urllib3>=2")),
    "pipecat": (("pipecat",), ()),
}
UNCONSTRAINED = {"pipecat"}  # It needs older versions of soundfile and soxr than constraints.txt has.


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BRIDGES)}; all without one")
    names = parser.parse_args().names or list(BRIDGES)
    unknown = [name for name in names if name not in BRIDGES]
    if unknown:
        parser.error(f"no bridge {', '.join(unknown)}; known are {', '.join(BRIDGES)}")
    folder = Path(os.environ.get("EMODISTILL_BRIDGES", ROOT / ".bridges"))
    failed = [name for name in names if not is_tested(name, folder / name)]
    print(f"{len(names) - len(failed)} of {len(names)} bridges pass", *failed and ["failed:", *failed])
    return 1 if failed else 0


def is_tested(name: str, folder: Path) -> bool:
    """Install a bridge's environment into `folder`, and say whether its tests pass."""
    extras, requirements = BRIDGES[name]
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    wanted = f"{ROOT}[{','.join(extras)}]" if extras else str(ROOT)
    constraints = [] if name in UNCONSTRAINED else ["--constraint", str(ROOT / "constraints.txt")]
    pip = [str(python), "-m", "pip", "install", "--quiet", *constraints]
    subprocess.run([*pip, "--editable", wanted, *requirements, *PYTEST], check=True)
    tests = ROOT / "tests" / "bridges" / f"test_{name}.py"
    print(f"bridge {name}", flush=True)
    # The warnings of other programs are no errors.
    command = [str(python), "-m", "pytest", "-o", "filterwarnings=default", str(tests)]
    return subprocess.run(command, cwd=ROOT).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
