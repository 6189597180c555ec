"""Low-rank adapters: which layers get one, what is trained, and that a trained student has plain weights."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import factories as make
import pytest
import torch
from torch import Tensor, nn

from emodistill.config import OptimConfig, StudentConfig
from emodistill.errors import ConfigError, MissingExtraError
from emodistill.export.exporter import export_run
from emodistill.models.backbones import load_backbone
from emodistill.models.checkpoint import load_checkpoint, read_exported
from emodistill.models.lora import adapters
from emodistill.models.student import Student, Suffix
from emodistill.report.bibliography import references
from emodistill.training import packages, preflight, stages
from emodistill.training.cross_validation import crossval, prepare_run
from emodistill.training.fit import Learner
from emodistill.training.grid import make_grid
from emodistill.training.optimizer import build_optimizer
from emodistill.training.stages import SpeechStage

RANK = 4
IN_A_BLOCK = 6  # linear layers: query, key, value, output, and two of the feed-forward part
LENGTHS = torch.tensor([8000, 5000])


def waveforms() -> Tensor:
    sounds = [torch.from_numpy(make.speech(0.5, 110 + 60 * row, seed=row)) for row in range(2)]
    batch = torch.stack(sounds)
    batch[1, LENGTHS[1] :] = 0
    return batch


def student_of(folder: Path, **config: Any) -> Student:
    backbone = make.with_random_weights(load_backbone(str(folder), 2))
    student: Student = make.student(backbone, **{"lora": RANK, **config})
    return student


def randomise(model: nn.Module) -> list[str]:
    """Give every adapter random values, as a training does; returns their names."""
    generator = torch.Generator().manual_seed(3)
    names = []
    for name, value in model.named_parameters():
        if ".lora_B." in name:
            assert not value.detach().any(), "an adapted student starts as the pretrained one"
            value.data = 0.1 * torch.randn(value.shape, generator=generator)
            names.append(name)
    return names


@pytest.mark.parametrize("frozen", [0, 1])
@pytest.mark.parametrize("name", make.SPEECH_MODELS)
def test_merged_weights_give_the_outputs_of_the_adapters(
    name: str, frozen: int, models: dict[str, Path]
) -> None:
    student, inputs = student_of(models[name], frozen=frozen), waveforms()
    plain = {key: value.clone() for key, value in student.state_dict().items()}
    trained = {key for key, value in student.named_parameters() if value.requires_grad}
    with torch.no_grad():
        before = student(inputs, LENGTHS).logits
        with adapters(student, 0):
            torch.testing.assert_close(student(inputs, LENGTHS).logits, before, atol=1e-5, rtol=0)
            adapted_layers = randomise(student)
            adapted = student(inputs, LENGTHS)
        merged = student(inputs, LENGTHS)
    torch.testing.assert_close(merged.logits, adapted.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(merged.embedding, adapted.embedding, atol=1e-5, rtol=0)
    assert (adapted.logits - before).abs().max() > 1e-3
    after = student.state_dict()
    assert after.keys() == plain.keys()
    changed = {key for key, value in after.items() if not torch.equal(value, plain[key])}
    assert changed <= {key for key in plain if key.startswith("backbone.blocks.") and key.endswith(".weight")}
    assert len(changed) == len(adapted_layers) >= IN_A_BLOCK * (2 - frozen)
    assert not any(key.startswith("backbone.blocks.0.") for key in changed if frozen)
    assert {key for key, value in student.named_parameters() if value.requires_grad} == trained


@pytest.mark.parametrize("frozen", [0, 1])
@pytest.mark.parametrize("name", make.SPEECH_MODELS)
def test_every_adapter_learns_and_no_weight_of_the_backbone_does(
    name: str, frozen: int, models: dict[str, Path]
) -> None:
    student = student_of(models[name], frozen=frozen)
    with adapters(student, 0):
        student(waveforms(), LENGTHS).logits.square().sum().backward()
        for key, value in student.backbone.named_parameters():
            assert value.requires_grad == (".lora_" in key), key
            if ".lora_B." in key:
                assert value.grad is not None, key
                assert value.grad.abs().max() > 0, key


@pytest.mark.parametrize("rank", [4, 8, 31, 32])
def test_only_layers_larger_than_the_rank_are_adapted(rank: int, models: dict[str, Path]) -> None:
    student = student_of(models["wavlm"], lora=rank)  # its attention has a layer with 8 outputs
    blocks = student.backbone.blocks
    sizes = [min(layer.weight.shape) for layer in blocks.modules() if isinstance(layer, nn.Linear)]
    assert {min(sizes), max(sizes)} == {8, 32}
    if rank >= max(sizes):
        with pytest.raises(ConfigError, match=f"student.lora = {rank} is not smaller than any linear layer"):
            adapters(student, 0).__enter__()
        return
    with adapters(student, 0):
        ranks = [len(value) for key, value in student.named_parameters() if ".lora_A." in key]
    assert ranks == [rank] * sum(size > rank for size in sizes)


def test_the_first_values_depend_on_the_seed_alone(models: dict[str, Path]) -> None:
    def first_values(seed: int) -> list[Tensor]:
        student = student_of(models["hubert"])
        with adapters(student, seed):
            return [value.detach() for key, value in student.named_parameters() if ".lora_A." in key]

    one, same, other = first_values(1), first_values(1), first_values(2)
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_adapters_learn_at_the_rate_of_new_layers(models: dict[str, Path]) -> None:
    student = student_of(models["wavlm"])
    optim = OptimConfig(lr=1e-2, backbone_lr=1e-5)
    with adapters(student, 0):
        rates = {group["lr"] for group in build_optimizer(student, optim).param_groups}
    assert rates == {1e-2}
    assert {group["lr"] for group in build_optimizer(student, optim).param_groups} == {1e-2, 1e-5}


def test_an_adapted_student_can_be_copied_for_another_process(models: dict[str, Path]) -> None:
    student, inputs = student_of(models["wavlm"]), waveforms()
    with adapters(student, 0), torch.no_grad():
        randomise(student)
        copy = deepcopy(student)
        expected = student(inputs, LENGTHS).logits
        randomised = [value for key, value in student.named_parameters() if ".lora_B." in key]
        for value in randomised:
            value.zero_()
        torch.testing.assert_close(copy(inputs, LENGTHS).logits, expected)
        assert not torch.allclose(student(inputs, LENGTHS).logits, expected, atol=1e-3)


# --- in a run ------------------------------------------------------------------------------------


def lora_recipe(manifest: Path, folder: Path, **sections: Any) -> Any:
    student = {
        "backbone": str(folder), "layers": None, "frozen": 1, "lora": RANK, "optim": make.OPTIM,
        **sections.pop("student", {}),
    }  # fmt: skip
    return make.recipe(
        manifest, **{"distillation": {"teachers": ["prosodic"]}, "student": student, **sections}
    )


def model_of(run: Path, stage: str = "student", phase: str = "refit") -> Any:
    (fold,) = run.glob("fold-*")
    return load_checkpoint(fold / phase / stage).model


def test_a_run_trains_adapters_and_keeps_plain_weights(
    manifest: Path, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    run_jobs = stages.run_jobs
    monkeypatch.setattr(
        stages, "run_jobs", lambda *args, **kwargs: computed.append(len(args[1])) or run_jobs(*args, **kwargs)
    )
    crossval(lora_recipe(manifest, models["hubert"]), tmp_path / "lora", max_folds=1)
    num_computed = len(computed)
    assert num_computed, "the states of the layers below the adapters are cached"
    crossval(lora_recipe(manifest, models["hubert"], student={"lora": 0}), tmp_path / "full", max_folds=1)
    assert len(computed) == num_computed, "a run without adapters has the same cached states"
    student, pretrained = model_of(tmp_path / "lora"), load_backbone(str(models["hubert"]), None)
    assert student.config.lora == RANK
    before, after = pretrained.state_dict(), student.backbone.state_dict()
    assert after.keys() == before.keys()
    moved = {key for key in before if not torch.equal(after[key], before[key])}
    assert moved
    assert all(key.startswith("blocks.1.") and key.endswith(".weight") for key in moved)
    for key in moved:
        change = after[key] - before[key]
        assert torch.linalg.matrix_rank(change, rtol=1e-3) <= RANK, key
    full = model_of(tmp_path / "full").backbone.state_dict()
    assert {key for key in before if not torch.equal(full[key], before[key])} > moved
    cited = {
        name: {item.key for item in references([str(tmp_path / name)]).citations} for name in ("lora", "full")
    }
    assert cited["lora"] - cited["full"] == {"hu2022lora"}


def test_an_exported_student_has_plain_weights(
    manifest: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    recipe = lora_recipe(
        manifest, models["whisper"], protocol={"refit": False}, distillation={"teachers": []}
    )
    crossval(recipe, tmp_path / "run", max_folds=1)
    export_run(tmp_path / "run", tmp_path / "exported")  # refuses outputs that differ from torch
    exported = read_exported(tmp_path / "exported").model
    trained = model_of(tmp_path / "run", phase="select").state_dict()
    assert not any("lora" in name for name in trained)
    for name, value in exported.state_dict().items():
        torch.testing.assert_close(value, trained[name], msg=name)


def test_a_killed_run_with_adapters_gives_the_same_student(
    manifest: Path, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception):
        pass

    recipe = lora_recipe(
        manifest, models["wavlm"], student={"frozen": 0}, protocol={"refit": False},
        augment={"views": 1, "noise_snr_db": None}, distillation={"teachers": []},
    )  # fmt: skip
    crossval(recipe, tmp_path / "whole", max_folds=1)
    start = Learner.on_train_epoch_start

    def kill_in_the_second_epoch(self: Learner) -> None:
        if self.current_epoch == 1:
            raise Killed
        start(self)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "on_train_epoch_start", kill_in_the_second_epoch)
        with pytest.raises(Killed):
            crossval(recipe, tmp_path / "killed", max_folds=1)
    (state,) = (tmp_path / "killed").glob("fold-*/select/student/last.ckpt")
    saved = torch.load(state, weights_only=True)["state_dict"]
    assert any(".lora_A." in key for key in saved)
    assert not any(".base_layer." in key for key in saved), "weights that are not trained are not saved"
    crossval(recipe, tmp_path / "killed", max_folds=1)
    whole, resumed = (
        next((tmp_path / name).glob("fold-*/predictions.csv")).read_bytes() for name in ("whole", "killed")
    )
    assert resumed == whole


def test_the_acoustic_teacher_has_adapters_too(
    manifest: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    teacher = {
        "backbone": str(models["whisper"]), "embedding_dim": 16, "frozen": 1, "lora": RANK,
        "optim": make.OPTIM,
    }  # fmt: skip
    recipe = make.recipe(
        manifest, distillation={"teachers": ["acoustic"]}, acoustic={"student": teacher},
        protocol={"refit": False},
    )  # fmt: skip
    crossval(recipe, tmp_path / "run", max_folds=1)
    before = load_backbone(str(models["whisper"]), None).state_dict()
    after = model_of(tmp_path / "run", "acoustic", "select").backbone.state_dict()
    assert after.keys() == before.keys()
    assert any(not torch.equal(after[key], before[key]) for key in before)


def test_a_student_that_starts_from_another_takes_the_rank_of_its_own_recipe(
    manifest: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    from emodistill.labels import LabelSet
    from emodistill.models.checkpoint import save_checkpoint

    labels = LabelSet(make.EMOTIONS)
    student = Student(
        load_backbone(str(models["hubert"]), None), StudentConfig(backbone="x", embedding_dim=16), 2, {}
    )
    save_checkpoint(tmp_path / "pretrained", student, labels, ["other"])
    recipe = lora_recipe(manifest, models["hubert"], student={"init": str(tmp_path / "pretrained")})
    stage = SpeechStage("student", recipe, labels, recipe.student, recipe.augment, {})
    model, _ = stage.initialise([])
    assert model.config.lora == RANK
    assert isinstance(stage.trained_part(model), Suffix)
    compact = Student(load_backbone("compact", 1, 16), StudentConfig(backbone="compact"), 2, {})
    save_checkpoint(tmp_path / "compact", compact, labels, [])
    recipe = lora_recipe(manifest, models["hubert"], student={"frozen": 0, "init": str(tmp_path / "compact")})
    stage = SpeechStage("student", recipe, labels, recipe.student, recipe.augment, {})
    with pytest.raises(ConfigError, match=r"student.init = .*: compact .* has no weights to adapt"):
        stage.initialise([])


# --- recipes -------------------------------------------------------------------------------------


def test_adapters_that_cannot_have_an_effect_are_refused(manifest: Path, models: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"student: compact .* has no weights to adapt: set lora = 0"):
        make.recipe(manifest, student={"lora": 8})
    with pytest.raises(ConfigError, match=r"lora adapts the layers above frozen = 2, .* leaves none"):
        lora_recipe(manifest, models["hubert"], student={"layers": 2, "frozen": 2})
    with pytest.raises(ConfigError, match=r"above student.frozen = 1, but the student pools \[0, 1\]"):
        student_of(models["hubert"], frozen=1, pool=(0, 1))
    with pytest.raises(ConfigError, match=r"above student.frozen = 2, but the student pools \[2\]"):
        student_of(models["hubert"], frozen=2, pool="mix")


@pytest.mark.parametrize(
    ("sections", "package", "extra"),
    [
        ({}, "peft", "lora"),
        ({"runtime": {"logger": "wandb"}, "student": {"lora": 0}}, "wandb", "wandb"),
        ({"runtime": {"logger": "mlflow"}, "student": {"lora": 0}}, "mlflow", "mlflow"),
    ],
)
def test_a_missing_package_is_named_before_the_corpus_is_read(
    sections: dict[str, Any], package: str, extra: str, manifest: Path, models: dict[str, Path],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    monkeypatch.setattr(preflight, "open_corpus", lambda *_: pytest.fail("the corpus is read"))
    with pytest.raises(MissingExtraError, match=rf"'{package}'.*pip install 'emodistill\[{extra}\]'"):
        prepare_run(lora_recipe(manifest, models["hubert"], **sections), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_ablation_has_a_cell_whose_layers_are_trained_in_full(
    manifest: Path, models: dict[str, Path]
) -> None:
    full = lora_recipe(manifest, models["hubert"], student={"layers": 2})
    cells = {cell.name: cell.recipe.student for cell in make_grid(full).cells}
    assert cells["no-lora"] == full.student.model_copy(update={"lora": 0})
    frozen = cells["no-trained-layers"]
    assert frozen is not None
    assert (frozen.frozen, frozen.lora) == (2, 0)
    plain = lora_recipe(manifest, models["hubert"], student={"lora": 0})
    assert "no-lora" not in {cell.name for cell in make_grid(plain).cells}
