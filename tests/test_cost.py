"""What models cost: parameters, MACs, memory, latency and the time of training, in files and tables."""

import csv
import itertools
import json
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import factories as make
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from torch import nn

from emodistill.config import ProsodicConfig
from emodistill.errors import MissingExtraError, ModelError
from emodistill.evaluation.ablation_table import read_ablation, show_ablation_table
from emodistill.evaluation.cost import (
    AUDIO_S,
    COST,
    COST_TITLES,
    TOGETHER,
    ModelCost,
    RunCost,
    TrainingCost,
    add_costs,
    cost_cell,
    cost_notes,
    cost_row,
    cost_rows,
    format_count,
    format_seconds,
    known_titles,
    read_cost,
)
from emodistill.evaluation.run import read_run
from emodistill.evaluation.scores import score_run
from emodistill.models.backbones import load_backbone
from emodistill.models.checkpoint import load_checkpoint
from emodistill.models.prosodic import NUM_PLANES, ProsodicTeacher
from emodistill.training import cost as measuring
from emodistill.training.cost import (
    LiveTensors,
    count_macs,
    measure_latency,
    measure_model,
    measure_module,
    measured_waveform,
    typical_transcript,
)
from emodistill.training.cross_validation import collect_scores, crossval
from emodistill.training.fit import FitResult, Learner


class Killed(Exception):
    """Raised where a test ends a run, as if the process were killed."""


def training(seconds: float = 2.0, **fields: object) -> TrainingCost:
    return TrainingCost(**{"seconds": seconds, "epochs": 3, "device": "cpu", "cpu": "x", "threads": 1,
                           "torch": "2", **fields})  # fmt: skip


# --- measuring -----------------------------------------------------------------------------------------


def test_macs_are_those_of_the_formulas() -> None:
    x = torch.randn(1, 8, 50)
    assert count_macs(lambda: nn.Linear(50, 7)(x)) == 8 * 50 * 7
    assert count_macs(lambda: nn.Conv1d(8, 16, 5, stride=2)(x)) == 23 * 16 * 8 * 5
    query = torch.randn(1, 2, 30, 4)
    attention = nn.functional.scaled_dot_product_attention
    assert count_macs(lambda: attention(query, query, query)) == 2 * (2 * 30 * 30 * 4), "also on the CPU"


def test_live_tensors_are_counted_while_they_are_alive() -> None:
    weight = torch.randn(100, 100)
    with LiveTensors([weight]) as live:
        kept = torch.ones(1000)
        for _ in range(5):
            kept = kept + 1  # one new tensor, then the old one is gone
        view = weight.t()[:50]  # its memory is that of a weight
    assert live.peak == 2 * 4000
    assert live.bytes == 4000
    del kept, view
    assert live.bytes == 0


def test_a_module_is_measured_without_a_trace() -> None:
    model = nn.Sequential(nn.Linear(400, 300), nn.Dropout(), nn.BatchNorm1d(300), nn.Linear(300, 2))
    model[0].requires_grad_(False)
    model.train()
    x = torch.randn(1, 400)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    cost = measure_module(model, lambda: model(x))
    assert (torch.get_num_threads(), torch.equal(torch.get_rng_state(), state)) == (threads, True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert cost.parameters == 401 * 300 + 600 + 301 * 2
    assert cost.trained_parameters == cost.parameters - 401 * 300
    assert cost.macs == 400 * 300 + 300 * 2
    assert cost.size_bytes == 4 * (cost.parameters + 600) + 8
    assert cost.memory_bytes is not None
    assert 4 * 300 <= cost.memory_bytes - cost.size_bytes <= 4 * 4 * 300


def test_a_latency_is_a_median_of_some_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    durations = itertools.chain([5.0, 1.0, 9.0, 2.0], itertools.repeat(0.001))
    clock = itertools.accumulate(itertools.chain.from_iterable((0.0, duration) for duration in durations))
    monkeypatch.setattr("time.perf_counter", clock.__next__)
    calls = itertools.count()
    latency_ms, repetitions = measure_latency(lambda: next(calls))
    assert (latency_ms, repetitions) == (5000.0, 3), "slow calls are repeated as often as is needed"
    assert next(calls) == 1 + 3, "with one call before, that sets up kernels"
    monkeypatch.setattr("time.perf_counter", itertools.count(0.0, 0.0001).__next__)
    assert measure_latency(lambda: None)[1] == measuring.REPETITIONS


def test_all_models_are_measured_on_the_same_seconds_of_speech() -> None:
    assert len(measured_waveform()) == AUDIO_S * 16_000
    assert measured_waveform().std() > 0.01


def test_a_prosodic_teacher_costs_its_descriptors_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ProsodicTeacher(ProsodicConfig(width=12), 2)
    cost, tokens = measure_model(model, "")
    assert tokens is None
    assert cost.latency_ms is not None
    assert cost.extraction_ms is not None
    assert 0 < cost.extraction_ms < cost.latency_ms
    planes = torch.zeros(1, 149, NUM_PLANES)
    assert cost.macs == pytest.approx(count_macs(lambda: model.eval()(planes, None)), rel=0.05)

    def lack(_: object) -> None:
        raise MissingExtraError("opensmile", "train")

    monkeypatch.setattr(measuring, "extract_llds", lack)
    other, _ = measure_model(ProsodicTeacher(ProsodicConfig(width=14), 2), "")
    assert (other.latency_ms, other.extraction_ms) == (None, None), "a part of the latency would mislead"
    assert other.macs


def test_models_of_one_architecture_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def student(width: int) -> nn.Module:
        from emodistill.config import StudentConfig
        from emodistill.models.student import Student

        config = StudentConfig(backbone="compact", layers=1, width=width, embedding_dim=8)
        return Student(load_backbone("compact", 1, width), config, 2, {})

    first, _ = measure_model(student(24), "")
    monkeypatch.setattr(measuring, "measure_module", None)
    assert measure_model(student(24), "")[0] == first
    with pytest.raises(TypeError):
        measure_model(student(32), "")


# --- runs ----------------------------------------------------------------------------------------------


def test_a_run_keeps_what_its_models_cost(run: Path) -> None:
    cost = read_cost(run)
    assert cost is not None
    assert list(cost.models) == ["student", "prosodic", "linguistic"]
    assert cost.machine["torch"] == torch.__version__
    assert cost.machine["threads"] == 1
    assert cost.machine["cpu"]
    for name, model in cost.models.items():
        loaded = load_checkpoint(run / "fold-1/select" / name).model
        assert model.parameters == sum(value.numel() for value in loaded.parameters())
        for value in (model.macs, model.memory_bytes, model.latency_ms, model.size_bytes):
            assert value is not None
            assert value > 0
        assert (model.extraction_ms is not None) == (name == "prosodic")
        targets = set() if name == "student" else {"select targets", "refit targets"}
        assert list(model.training) == ["1", "2", "3"]
        for fold, phases in model.training.items():
            assert set(phases) == {"select", "refit", *targets}
            for phase in ("select", "refit"):
                part = phases[phase]
                history = FitResult.read(run / f"fold-{fold}" / phase / name / "fit.json").history
                assert part.epochs == len(history)
                assert part.seconds > 0
                assert part.peak_memory_bytes is None or part.peak_memory_bytes > 2**20
                assert (part.device, part.shared) == ("cpu", False)
    assert cost.teachers is not None
    assert cost.teachers.parameters == sum(
        cost.models[name].parameters for name in ("prosodic", "linguistic")
    )


def test_costs_are_no_part_of_hashes_scores_and_resumed_runs(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    before = read_cost(folder)
    assert before is not None
    scores = (folder / "scores.json").read_bytes()
    assert COST not in scores.decode()
    recipe = read_run(folder).recipe
    crossval(recipe, folder)
    again = read_cost(folder)
    assert again == before, "measured once"
    for path in folder.rglob(f"*{COST}"):
        path.unlink()
    assert score_run(read_run(folder)).cost is None
    crossval(recipe, folder)
    assert (folder / "scores.json").read_bytes() == scores
    anew = read_cost(folder)
    assert anew is not None
    assert anew.models["student"].macs == before.models["student"].macs
    assert anew.models["student"].training_s is None, "nobody measured it"
    (folder / COST).write_text("{")
    with pytest.raises(ModelError, match=r"cost\.json' is damaged .*: delete it"):
        read_cost(folder)
    collect_scores(recipe, folder)
    assert read_cost(folder) is not None
    shutil.rmtree(folder / "fold-1/select/prosodic")
    (folder / COST).unlink()
    collect_scores(recipe, folder)
    left = read_cost(folder)
    assert left is not None
    assert list(left.models) == ["student", "linguistic"]


def test_the_time_of_a_killed_run_that_continues_adds_up(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make.recipe(manifest, distillation={"teachers": []}, protocol={"refit": False})
    clock = itertools.count(0, 10)
    monkeypatch.setattr(measuring.time, "monotonic", lambda: next(clock))
    step, calls = Learner.training_step, itertools.count()

    def die_once(self: Learner, batch: object, batch_idx: int) -> torch.Tensor:
        if self.current_epoch == 1 and next(calls) == 1:
            raise Killed
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Learner, "training_step", die_once)
    with pytest.raises(Killed):
        crossval(recipe, tmp_path, max_folds=1)
    assert not list(tmp_path.rglob(COST))
    crossval(recipe, tmp_path, max_folds=1)
    cost = read_cost(tmp_path)
    assert cost is not None
    part = cost.models["student"].training["1"]["select"]
    epochs = len(FitResult.read(tmp_path / "fold-1/select/student/fit.json").history)
    assert (part.epochs, part.seconds) == (epochs, 10 * epochs)


def test_a_classifier_that_is_fitted_again_and_targets_of_inner_folds_have_their_time(
    manifest: Path, tmp_path: Path
) -> None:
    recipe = make.recipe(
        manifest, protocol={"refit": "classifier"},
        distillation={"teachers": ["prosodic"], "targets": "out-of-fold", "inner_folds": 2},
    )  # fmt: skip
    crossval(recipe, tmp_path, max_folds=1)
    cost = read_cost(tmp_path)
    assert cost is not None
    assert set(cost.models["student"].training["1"]) == {"select", "refit"}
    prosodic = cost.models["prosodic"].training["1"]
    assert set(prosodic) == {"select", "select targets"}
    inner = [TrainingCost.read(path) for path in tmp_path.glob(f"fold-1/select/prosodic/inner-*/*/{COST}")]
    assert len(inner) == 2
    assert prosodic["select targets"].seconds > sum(part.seconds for part in inner if part)


def test_a_model_of_the_artifact_cache_keeps_the_cost_of_its_training(manifest: Path, tmp_path: Path) -> None:
    from emodistill.training.ablation import ablate

    recipe = make.recipe(manifest, protocol={"refit": False})
    table = ablate(recipe, tmp_path, only=["prosodic-only", "no-distillation"])
    full, other, plain = (
        read_cost(tmp_path / f"cells/{cell}/seed-0") for cell in ("full", "prosodic-only", "no-distillation")
    )
    assert full is not None
    assert other is not None
    assert plain is not None
    assert (full.models["prosodic"].is_shared, other.models["prosodic"].is_shared) == (False, True)
    assert not other.models["student"].is_shared
    assert other.models["prosodic"].training_s == full.models["prosodic"].training_s
    assert list(plain.models) == ["student"]
    assert plain.teachers is None
    assert "Another run trained a shared model" in " ".join(cost_notes([other]))
    assert "shared" not in " ".join(cost_notes([full]))

    # The table of the grid has the costs beside UA, and the teachers' too.
    rows = {row["cell"]: row for row in make.read_rows(tmp_path / "ablation.csv")}
    assert [row.model for row in table.costs] == list(rows)
    assert list(rows["full"])[-len(COST_TITLES) :] == list(COST_TITLES), "new columns come last"
    student = full.models["student"]
    assert float(rows["full"]["macs"]) == student.macs == float(rows["no-distillation"]["macs"])
    assert float(rows["full"]["training_s"]) == pytest.approx(student.training_s)
    assert full.teachers is not None
    assert float(rows[TOGETHER]["latency_ms"]) == pytest.approx(full.teachers.latency_ms)
    markdown = (tmp_path / "ablation.md").read_text()
    assert f"| {TOGETHER} |" in markdown
    assert f"| {format_count(student.macs)} |" in markdown
    assert read_ablation(tmp_path / "ablation.json") == table
    shown = Console(file=StringIO(), width=200)
    show_ablation_table(table, shown)
    assert format_count(student.macs) in shown.file.getvalue()


# --- files and tables ----------------------------------------------------------------------------------

TIMES = st.none() | st.floats(0, 1e6)
COUNTS = st.none() | st.integers(0, 10**13)
COSTS = st.builds(
    ModelCost, parameters=COUNTS, trained_parameters=COUNTS, size_bytes=COUNTS, macs=COUNTS,
    memory_bytes=COUNTS, latency_ms=TIMES, extraction_ms=TIMES,
    training=st.dictionaries(
        st.sampled_from("123"),
        st.dictionaries(
            st.sampled_from(["select", "refit"]), st.builds(training, st.floats(0, 1e6)), min_size=1
        ),
    ),
)  # fmt: skip


@given(models=st.dictionaries(st.sampled_from(["student", "prosodic", "linguistic"]), COSTS, min_size=1))
def test_a_cost_is_read_back_as_it_was_written(
    models: dict[str, ModelCost], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("cost")
    cost = RunCost(models, {"cpu": "x", "threads": 1}, 7)
    cost.write(folder)
    assert read_cost(folder) == cost
    data = json.loads((folder / COST).read_text())
    data["models"][next(iter(models))]["of_a_later_version"] = 1
    (folder / COST).write_text(json.dumps(data))
    assert read_cost(folder) == cost


@given(costs=st.lists(COSTS, min_size=2, max_size=3))
def test_a_sum_is_known_where_all_parts_are(costs: list[ModelCost]) -> None:
    together = add_costs(costs)
    for name in ("parameters", "macs", "latency_ms", "training_s"):
        values = [getattr(cost, name) for cost in costs]
        total = getattr(together, name)
        if None in values:
            assert total is None, name
        else:
            assert total == pytest.approx(sum(values)), name
    assert set(cost_row(together)) == set(COST_TITLES)


@given(value=st.floats(1, 9e14))
def test_a_short_number_is_the_number(value: float) -> None:
    number, _, prefix = format_count(value).partition(" ")
    factor = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[prefix]
    assert float(number) * factor == pytest.approx(value, abs=max(0.5, 0.0051 * factor))


@given(seconds=st.floats(0, 1e6))
def test_a_short_duration_is_the_duration(seconds: float) -> None:
    number, unit = format_seconds(seconds).split()
    factor = {"s": 1, "min": 60, "h": 3600}[unit]
    assert float(number) * factor == pytest.approx(seconds, abs=0.051 * factor)


def test_columns_are_shown_only_where_a_figure_is_known() -> None:
    exported = RunCost({"model": ModelCost(parameters=5, latency_ms=2.0)}, {"cpu": "x"})
    rows = cost_rows({"a": [exported], "older": [None]})
    assert [(row.run, row.model) for row in rows] == [("a", "model")]
    assert list(known_titles([row.figures for row in rows])) == ["parameters", "latency_ms"]
    assert cost_cell("macs", None) == "–"


def test_seeds_of_one_recipe_are_one_row_of_means() -> None:
    one = RunCost(
        {"student": ModelCost(parameters=9, training={"1": {"select": training(2.0)}})}, {"cpu": "x"}
    )
    two = RunCost(
        {"student": ModelCost(parameters=9, training={"1": {"select": training(4.0)}})}, {"cpu": "y"}
    )
    (row,) = cost_rows({"group": [one, two]}, {("group", "student"): 0.5})
    assert (row.figures["parameters"], row.figures["training_s"], row.ua) == (9, 3.0, 0.5)
    assert row.figures["macs"] is None
    assert "different machines" in " ".join(cost_notes([one, two]))


def test_the_verb_shows_costs_beside_ua(run: Path, emodistill: make.CommandLine) -> None:
    shown = emodistill("scores", run).out
    cost = read_cost(run)
    assert cost is not None
    lines = shown[shown.index("cost") :].splitlines()
    for name in ("student", "prosodic", "linguistic", TOGETHER):
        (line,) = [line for line in lines if line.startswith(f"│ {name} ") and "B │" in line]
        cells = [cell.strip() for cell in line.split("│")[1:-1]]
        model = cost.teachers if name == TOGETHER else cost.models[name]
        assert cells[2] == format_count(model.parameters)
        assert cells[5] == format_count(model.macs)
    text = " ".join(shown.split())
    assert "Transcripts are not included" in text
    assert "ms for its descriptors (LLDs)" in text
    data = json.loads(emodistill("scores", run, "--format", "json").out)
    assert data["cost"]["models"]["student"]["macs"] == cost.models["student"].macs
    assert data["cost"]["models"][TOGETHER]["latency_ms"] == cost.teachers.latency_ms
    assert list(data)[-3:] == ["cost", "dimensions", "votes"], "new keys come last"
    out = emodistill("scores", run, "--format", "csv").out.splitlines()
    rows = {row["key"]: row["value"] for row in csv.DictReader(out)}
    assert rows["cost.models.student.parameters"] == str(cost.models["student"].parameters)


@pytest.fixture
def evaluated(manifest: Path, tmp_path: Path, emodistill: make.CommandLine) -> Callable[..., ModelCost]:
    """A function that evaluates a model, and returns its cost."""

    def evaluate(model: object, *options: object) -> ModelCost:
        out = tmp_path / "evaluation"
        done = emodistill("evaluate", model, manifest, "--out", out, *options)
        assert done.code == 0, done.err
        assert "cost" in done.out
        cost = read_cost(out)
        assert cost is not None
        return cost.models["model"]

    return evaluate


def test_an_exported_model_gives_parameters_size_and_latency(
    evaluated: Callable[..., ModelCost], exported: Path
) -> None:
    cost = evaluated(exported, "--seen", "allow")
    assert cost.size_bytes == (exported / "model.onnx").stat().st_size
    assert cost.parameters == json.loads((exported / "card.json").read_text())["num_parameters"]
    assert cost.latency_ms > 0
    assert (cost.macs, cost.training_s) == (None, None)


def test_a_checkpoint_gives_all_but_its_training(evaluated: Callable[..., ModelCost], run: Path) -> None:
    cost = evaluated(run / "fold-1/refit/student", "--seen", "allow")
    own = read_cost(run).models["student"]
    assert (cost.parameters, cost.macs, cost.memory_bytes) == (own.parameters, own.macs, own.memory_bytes)
    assert cost.training == {}


def test_a_hugging_face_model_gives_its_macs_too(evaluated: Callable[..., ModelCost], tmp_path: Path) -> None:
    cost = evaluated(make.classifier(tmp_path / "model"), "--map", "ang=angry,oth=-")
    assert cost.macs > 0
    assert cost.memory_bytes > cost.size_bytes >= 4 * cost.parameters


def test_a_typical_transcript_is_of_median_length(run: Path, tmp_path: Path) -> None:
    lengths = sorted(
        len(row["transcript"]) for row in make.read_rows(run / "utterances.csv") if row["transcript"]
    )
    assert len(typical_transcript(run)) == lengths[len(lengths) // 2]
    assert typical_transcript(tmp_path) == "it is eleven o'clock"


def test_compare_shows_student_against_the_teachers_together(
    run: Path, manifest: Path, tmp_path: Path, emodistill: make.CommandLine
) -> None:
    plain = tmp_path / "plain"
    crossval(make.recipe(manifest, distillation={"teachers": []}), plain)
    taught, alone = read_cost(run), read_cost(plain)
    assert taught is not None
    assert taught.teachers is not None
    assert alone is not None
    (data,) = json.loads(emodistill("compare", plain, run, "--format", "json").out)
    assert list(data)[-2:] == ["reference_cost", "run_cost"], "new keys come last"
    assert list(data["reference_cost"]) == ["student"]
    assert list(data["run_cost"]) == ["student", TOGETHER]
    assert data["run_cost"][TOGETHER]["latency_ms"] == taught.teachers.latency_ms
    rows = list(csv.DictReader(emodistill("compare", plain, run, "--format", "csv").out.splitlines()))
    assert list(rows[0])[-len(COST_TITLES) :] == [f"run_{name}" for name in COST_TITLES], "columns come last"
    assert float(rows[0]["reference_macs"]) == alone.models["student"].macs
    shown = emodistill("compare", plain, run).out
    (line,) = [line for line in shown.splitlines() if f"│ {TOGETHER} " in line]
    assert format_count(taught.teachers.macs) in line
    (plain / COST).unlink()
    (data,) = json.loads(emodistill("compare", plain, run, "--format", "json").out)
    assert data["reference_cost"] is None
