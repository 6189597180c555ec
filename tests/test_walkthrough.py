"""`emodistill demo` in small: every teacher and student for one epoch, then export and predictions."""

import io
from pathlib import Path

from rich.console import Console

from emodistill.config import load_recipe
from emodistill.demo.walkthrough import STUDENTS, run_walkthrough
from emodistill.inference.recognizer import Recognizer


def test_the_walkthrough_trains_exports_and_predicts(tmp_path: Path) -> None:
    short = [f"{part}.optim.epochs=1" for part in ("prosodic", "linguistic", "student")]
    small = ["student.width=16", "student.layers=1", "prosodic.width=8", "augment.views=1",
             "augment.speed=0.0", "augment.noise_snr_db=none", "runtime.workers=2"]  # fmt: skip
    out = io.StringIO()
    uas = run_walkthrough(tmp_path, Console(file=out, width=120), load_recipe("demo", [*short, *small]))
    rows = {"prosodic teacher", "linguistic teacher", *(f"student, {name}" for name in STUDENTS)}
    assert set(uas) == rows
    assert all(0 <= ua <= 1 for ua in uas.values())
    assert all(row in out.getvalue() for row in rows)
    # A teacher is trained once. The runs of the other students take it from the artifact cache.
    weights = [
        (tmp_path / run / "fold-1/select/prosodic/model.safetensors").read_bytes()
        for run in ("both-teachers", "prosodic-teacher")
    ]
    assert weights[0] == weights[1]
    recognizer = Recognizer(tmp_path / "exported")
    assert recognizer.card.teachers == ("prosodic", "linguistic")
    assert recognizer.card.corpus == "demo"
