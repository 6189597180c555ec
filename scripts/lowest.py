"""Install the lowest versions that pyproject.toml declares, and try each install.

    make lowest                          # all three
    python scripts/lowest.py light       # or some of: light, serve, train

For each install, the script makes a fresh virtual environment. pip gets every `>=` of pyproject.toml as `==`.
Packages that pyproject.toml does not name are the newest that fit. Then the script runs a few commands of
emodistill in that environment. It stops at the first command that fails.

torch is the exception: it stays at the version in constraints.txt. Older versions of torch are not run here.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
CLIP = ROOT / "src/emodistill/demo/call.ogg"
PORT = 8767
NOT_IN_LIGHT = ("torch", "transformers", "lightning", "fastapi", "matplotlib")
# Backbones as small as transformers makes them: what a hub id would bring.
SAVE_BACKBONE = """
import sys
from transformers import HubertConfig, HubertModel
HubertModel(HubertConfig(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, conv_dim=(32, 32),
    conv_kernel=(400, 3), conv_stride=(160, 2), num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
)).save_pretrained(sys.argv[1])
"""


def floors(extras: tuple[str, ...]) -> list[str]:
    """The requirements of an install with these extras, each with `==` in place of `>=`.

    Raises `SystemExit` where a requirement has no `>=`.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    pins = {}
    for line in lines:  # it grows by the lines of an extra that names another extra
        requirement = Requirement(line)
        if requirement.name == project["name"]:
            for extra in requirement.extras:
                lines += project["optional-dependencies"][extra]
            continue
        lowest = [part.version for part in requirement.specifier if part.operator == ">="]
        if not lowest:
            raise SystemExit(f"'{line}' in pyproject.toml has no lowest version: add >=")
        pins[requirement.name] = f"{requirement.name}=={lowest[0]}"
    pins["torch"] = tested_torch()
    return list(pins.values())


def tested_torch() -> str:
    """The line of constraints.txt that pins torch."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith("torch=="))


def install(folder: Path, extras: tuple[str, ...]) -> None:
    """Make a virtual environment in `folder` and install this checkout into it, with the lowest versions."""
    constraints = folder.with_name(f"{folder.name}.txt")
    constraints.write_text("\n".join(floors(extras)) + "\n", encoding="utf-8")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    wanted = f"{ROOT}[{','.join(extras)}]" if extras else str(ROOT)
    pip = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--constraint", str(constraints)]
    subprocess.run([*pip, wanted], check=True)


class Install:
    """Runs commands in one environment, outside of the checkout, so that they use installed files alone."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.work = folder / "bin", folder / "work"
        self.work.mkdir(exist_ok=True)
        hidden = ("PYTHONPATH", "EMODISTILL_DATA", "EMODISTILL_MODEL", "VIRTUAL_ENV")
        self.environment = {key: value for key, value in os.environ.items() if key not in hidden}
        self.environment["EMODISTILL_CACHE"] = str(self.work / "cache")

    def python(self, code: str, *args: str) -> str:
        """The output of Python code."""
        return self._output([str(self.bin / "python"), "-c", code, *args])

    def emodistill(self, *args: object) -> str:
        """The output of a command of emodistill."""
        return self._output([str(self.bin / "emodistill"), *map(str, args)])

    def _output(self, command: list[str]) -> str:
        print("$", " ".join(command if "-c" not in command else [*command[:2], "…"]), flush=True)
        done = subprocess.run(
            command, cwd=self.work, env=self.environment, check=False, stdout=subprocess.PIPE, text=True
        )
        if done.returncode:
            raise SystemExit(f"exit code {done.returncode}: {' '.join(command)}\n{done.stdout}")
        return done.stdout


def try_light(there: Install) -> None:
    """Run predict, timeline and export --web, and check that packages of the extras are not installed."""
    code = f"from importlib.util import find_spec; print([n for n in {NOT_IN_LIGHT} if find_spec(n)])"
    expect(there.python(code).strip(), "[]", "packages that the light install must not have")
    (row,) = json.loads(there.emodistill("predict", CLIP, "--format", "json"))
    expect(row["error"], None, "error of predict")
    (found,) = json.loads(there.emodistill("timeline", CLIP, "--format", "json"))
    expect(bool(found["segments"]), True, "timeline found segments")
    there.emodistill("export", "--web", "page")
    expect((there.work / "page/index.html").is_file(), True, "export --web wrote page/index.html")


def try_serve(there: Install) -> None:
    """Start the server, ask it through the client, draw a timeline and read an mp4 file."""
    there.emodistill("timeline", CLIP, "--plot", "plot.png")
    there.python(
        "import av, sys, numpy as np\n"
        "with av.open('tone.mp4', 'w') as file:\n"
        "    stream = file.add_stream('aac', rate=16000)\n"
        "    samples = np.zeros((1, 1024), np.float32)\n"
        "    frame = av.AudioFrame.from_ndarray(samples, format='fltp', layout='mono')\n"
        "    frame.sample_rate = 16000\n"
        "    file.mux(stream.encode(frame))\n"
        "    file.mux(stream.encode(None))\n"
    )
    (row,) = json.loads(there.emodistill("predict", "tone.mp4", "--format", "json"))
    expect(row["error"], None, "error of predict on an mp4 file")
    there.python("import emodistill; emodistill.push_to_hub; import huggingface_hub")
    command = [str(there.bin / "emodistill"), "serve", "--port", str(PORT)]
    server = subprocess.Popen(command, cwd=there.work, env=there.environment)
    try:
        wait_for_server()
        there.python(
            "import sys, soundfile\n"
            "from emodistill import Client\n"
            f"with Client('http://127.0.0.1:{PORT}') as client:\n"
            "    prediction = client.predict(sys.argv[1])\n"
            "    assert prediction.error is None and prediction.emotion, prediction\n"
            "    samples, rate = soundfile.read(sys.argv[1], dtype='int16')\n"
            "    chunks = [samples[first : first + rate] for first in range(0, len(samples), rate)]\n"
            "    assert list(client.stream(chunks, rate_hz=rate))\n",
            str(CLIP),
        )
    finally:
        server.terminate()
        server.wait()


def wait_for_server() -> None:
    """Return when the server answers; raise `SystemExit` after 60 s."""
    for _ in range(600):
        try:
            with urlopen(f"http://127.0.0.1:{PORT}/readyz", timeout=10) as answer:
                if answer.status == 200:
                    return
        except (URLError, ConnectionError):
            time.sleep(0.1)
    raise SystemExit(f"emodistill serve did not answer on port {PORT} within 60 s")


def try_train(there: Install) -> None:
    """Train teachers and students with Muon for an epoch each, then export, score, compare and report."""
    there.python(SAVE_BACKBONE, "hubert")
    short = [f"--set={name}.optim.epochs=1" for name in ("prosodic", "linguistic", "student")]
    short += ["--set=student.optim.optimizer=muon", "--set=augment.views=1", "--set=augment.speed=0"]
    short += ["--set=augment.noise_snr_db=none", "--set=runtime.threads=1"]
    there.emodistill("train", "demo", "--out", "compact", *short)
    there.emodistill("train", "demo", "--out", "hubert-run", *short, "--set=student.backbone=hubert",
                     "--set=student.layers=2", "--set=distillation.teachers=[]")  # fmt: skip
    for precision in ("fp32", "fp16"):
        there.emodistill("export", "compact", "--out", f"exported-{precision}", "--precision", precision)
    (row,) = json.loads(there.emodistill("predict", CLIP, "--model", "exported-fp32", "--format", "json"))
    expect(row["error"], None, "error of predict with the exported model")
    there.emodistill("scores", "compact")
    there.emodistill("compare", "compact", "hubert-run")
    there.emodistill("report", "compact", "--out", "report.html")


def expect(value: object, expected: object, what: str) -> None:
    """Raise `SystemExit` where a value is not as expected."""
    if value != expected:
        raise SystemExit(f"{what}: {value!r}, expected {expected!r}")


INSTALLS: dict[str, tuple[tuple[str, ...], Callable[[Install], None]]] = {
    "light": ((), try_light),
    "serve": (("media", "plot", "listen", "hub", "serve"), try_serve),
    "train": (("train",), try_train),
}


def main() -> None:
    """Install and try the installs that are named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("installs", nargs="*", metavar="INSTALL", help=f"some of {', '.join(INSTALLS)}")
    given = parser.parse_args()
    if unknown := set(given.installs) - set(INSTALLS):
        parser.error(f"bad install {sorted(unknown)}, expected some of {list(INSTALLS)}")
    for name in given.installs or INSTALLS:
        extras, attempt = INSTALLS[name]
        print(f"== {name}: {' '.join(floors(extras))}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            install(Path(folder) / name, extras)
            attempt(Install(Path(folder) / name))
        print(f"{name}: works with its lowest versions", flush=True)
    print(f"torch was {tested_torch()}; older versions that pyproject.toml allows were not run")


if __name__ == "__main__":
    main()
