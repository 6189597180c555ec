"""Backbones, student and teachers: padding, gain, parity with Hugging Face, checkpoints."""

import json
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import factories as make
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from emodistill.audio.waveform import load
from emodistill.config import LinguisticConfig, ProsodicConfig, StudentConfig
from emodistill.errors import ConfigError, ModelError
from emodistill.labels import LabelSet
from emodistill.models.backbones import FAMILIES, load_backbone, rebuild_backbone
from emodistill.models.base import Backbone
from emodistill.models.checkpoint import load_checkpoint, save_checkpoint
from emodistill.models.compact import Compact
from emodistill.models.layers import (
    AttentiveStatistics,
    CosineClassifier,
    Output,
    PlainStatistics,
    frame_mask,
    merge_frames,
)
from emodistill.models.linguistic import LinguisticTeacher
from emodistill.models.mel import LogMel, mask_bands, warp_frequencies
from emodistill.models.prosodic import (
    NUM_PLANES,
    ProsodicTeacher,
    augment_planes,
    lld_statistics,
    make_planes,
)
from emodistill.models.student import Student, Suffix
from emodistill.models.whisper import Whisper
from emodistill.training.data import collate

LABELS = LabelSet(("angry", "happy", "sad", "neutral"))
BACKBONES = ("compact", *make.SPEECH_MODELS)
SHORTEST_SAMPLES = 400  # what the convolutions of wav2vec 2.0 need for one frame
LENGTHS_S = (0.1, 0.31, 0.5, 0.777, 1.3)


def small_backbone(name: str, models: dict[str, Path], layers: int | None = None) -> Backbone:
    return make.with_random_weights(load_backbone(str(models.get(name, name)), layers or 2, width=16))


def waveforms() -> list[Tensor]:
    return [
        torch.from_numpy(make.speech(length_s, 110 + 30 * index, seed=index))
        for index, length_s in enumerate(LENGTHS_S)
    ]


def padded(items: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    batch = collate([{"input": item, "label": 0, "index": 0, "targets": {}} for item in items])
    return batch.inputs, batch.lengths


def assert_same(one: Output, row: int, other: Output, tolerance: float = 1e-4) -> None:
    """Row `row` of a batch's output equals the only row of another one."""
    for name in ("logits", "embedding"):
        torch.testing.assert_close(
            getattr(one, name)[row], getattr(other, name)[0], atol=tolerance, rtol=0, msg=name
        )
    for name, value in one.projections.items():
        if not name.endswith("_hidden"):
            torch.testing.assert_close(value[row], other.projections[name][0], atol=tolerance, rtol=0)


# --- padding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 2, 0, 3, 1), (1, 0)])
@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_padding_does_not_change_the_output(
    name: str, order: tuple[int, ...], models: dict[str, Path]
) -> None:
    student = make.student(small_backbone(name, models))
    items = waveforms()
    alone = [student(item[None], None) for item in items]
    batched = student(*padded([items[index] for index in order]))
    for row, index in enumerate(order):
        assert_same(batched, row, alone[index])
        frames = int(batched.mask[row].sum())
        assert frames == alone[index].hidden.shape[1]
        torch.testing.assert_close(batched.hidden[row, :frames], alone[index].hidden[0], atol=1e-4, rtol=0)
    spread = torch.cat([output.logits for output in alone]).std(dim=0).max()
    assert spread > 1e-2, "the outputs must differ between utterances"


@pytest.mark.parametrize("pool", [(1, 2), "mix"])
@pytest.mark.parametrize("name", make.SPEECH_MODELS)
@torch.no_grad()
def test_padding_of_cached_states_does_not_change_the_output(
    name: str, pool: Any, models: dict[str, Path]
) -> None:
    student = make.student(small_backbone(name, models), frozen=1, pool=pool)
    items = waveforms()
    states = [student.prefix(item[None], None)[0][0] for item in items]
    suffix = Suffix(student).eval()
    batched = suffix(*padded(states))
    for row, item in enumerate(items):
        assert_same(batched, row, student(item[None], None))


@pytest.mark.parametrize("size", [2, 3])
@torch.no_grad()
def test_merged_frames_are_the_means_of_groups_whatever_the_padding(size: int) -> None:
    frames, lengths = torch.randn(3, 7, 4), torch.tensor([7, 5, 1])
    merged, groups = merge_frames(frames, lengths, size)
    assert groups is not None
    for row, length in enumerate(lengths.tolist()):
        expected = torch.stack([part.mean(dim=0) for part in frames[row, :length].split(size)])
        alone, _ = merge_frames(frames[row : row + 1, :length], None, size)
        assert int(groups[row]) == len(expected)
        torch.testing.assert_close(alone[0], expected)
        torch.testing.assert_close(merged[row, : groups[row]], expected)


@pytest.mark.parametrize("name", make.SPEECH_MODELS)
@torch.no_grad()
def test_padding_does_not_change_a_student_that_merges_frames(name: str, models: dict[str, Path]) -> None:
    student = make.student(small_backbone(name, models), frozen=1, merge=2)
    items = waveforms()
    batched = student(*padded(items))
    for row, item in enumerate(items):
        alone = student(item[None], None)
        assert_same(batched, row, alone)
        whole = make.student(small_backbone(name, models), frozen=1).prefix(item[None], None)[0].shape[1]
        assert alone.hidden.shape[1] == -(-whole // 2)


@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_samples_beyond_the_length_have_no_effect(name: str, models: dict[str, Path]) -> None:
    student = make.student(small_backbone(name, models))
    inputs, lengths = padded(waveforms())
    noisy = inputs.clone()
    for row, length in enumerate(lengths.tolist()):
        noisy[row, length:] = 0.9 * torch.randn(inputs.shape[1] - length, generator=torch.Generator())
    longer = F.pad(inputs, (0, 5000))
    expected = student(inputs, lengths)
    for variant in (noisy, longer):
        torch.testing.assert_close(student(variant, lengths).logits, expected.logits, atol=1e-4, rtol=0)


@torch.no_grad()
def test_padding_does_not_change_the_prosodic_teacher() -> None:
    teacher = make.with_random_weights(ProsodicTeacher(ProsodicConfig(width=16, embedding_dim=16), 4))
    rng = np.random.default_rng(0)
    for norm in [module for module in teacher.modules() if isinstance(module, torch.nn.BatchNorm2d)]:
        norm.running_mean.normal_(generator=torch.Generator().manual_seed(2))
    items = []
    for frames in (1, 2, 7, 40, 41, 83):
        item = rng.standard_normal((frames, NUM_PLANES)).astype(np.float32)
        item[:, 51:] = item[:1, 51:]
        items.append(torch.from_numpy(item))
    alone = [teacher(item[None], None) for item in items]
    for order in ([0, 1, 2, 3, 4, 5], [5, 0, 3, 1], [2, 1]):
        batched = teacher(*padded([items[index] for index in order]))
        for row, index in enumerate(order):
            assert_same(batched, row, alone[index])
    assert torch.cat([output.logits for output in alone]).std(dim=0).max() > 1e-2


@pytest.mark.parametrize("encoder", ["bert", "scratch"])
@torch.no_grad()
def test_padding_does_not_change_the_linguistic_teacher(encoder: str, models: dict[str, Path]) -> None:
    texts = ["no", "stop that now", "what a lovely day it is today she said", "unheard words"]
    config = LinguisticConfig(encoder=str(models.get(encoder, encoder)), embedding_dim=16)
    teacher = make.with_random_weights(LinguisticTeacher.create(config, 4, texts[:3]))
    items = [teacher.tokenize(text) for text in texts]
    alone = [teacher(item[None], None) for item in items]
    for order in ([0, 1, 2, 3], [3, 2, 0]):
        batched = teacher(*padded([items[index] for index in order]))
        for row, index in enumerate(order):
            assert_same(batched, row, alone[index])
    assert torch.cat([output.logits for output in alone]).std(dim=0).max() > 1e-2


@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_gain_does_not_change_the_output(name: str, models: dict[str, Path]) -> None:
    student = make.student(small_backbone(name, models))
    for item in waveforms()[1:3]:
        loud = student(item[None], None)
        for gain in (0.05, 1.9):
            assert_same(student(gain * item[None], None), 0, loud, tolerance=2e-3)


@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_the_shortest_waveform_gives_finite_logits(name: str, models: dict[str, Path]) -> None:
    student = make.student(small_backbone(name, models))
    waveform = torch.from_numpy(make.speech(SHORTEST_SAMPLES / make.RATE))
    assert len(waveform) == SHORTEST_SAMPLES
    assert student(waveform[None], None).logits.isfinite().all()
    assert student(torch.zeros(1, 800), None).logits.isfinite().all()


@torch.no_grad()
def test_padding_does_not_change_a_real_model_on_real_speech() -> None:
    folder, clips = (
        make.DATA / "models/whisper-tiny",
        sorted((make.DATA / "corpora/ravdess").rglob("03-01-*.*"))[::200][:5],
    )
    if not (folder / "config.json").is_file() or len(clips) < 5:
        pytest.skip(f"no whisper-tiny and RAVDESS below {make.DATA}")
    student = make.student(load_backbone(str(folder), 2), pool=(1, 2))
    items = [torch.from_numpy(load(path))[: 16000 + 5000 * index] for index, path in enumerate(clips)]
    batched = student(*padded(items))
    for row, item in enumerate(items):
        assert_same(batched, row, student(item[None], None))


# --- the registry of families -----------------------------------------------------------------------


def test_every_family_has_a_tiny_model_for_the_tests(models: dict[str, Path]) -> None:
    """The other tests go over `make.SPEECH_MODELS`, so these must have all model types of the registry."""
    tested = {"compact", *(load_backbone(str(models[name]), 1).model_type for name in make.SPEECH_MODELS)}
    registered = [model_type for family in FAMILIES for model_type in family.model_types]
    assert len(set(registered)) == len(registered), "a model type belongs to one family"
    assert tested == set(registered), "each model type needs a tiny model in SPEECH_MODELS"


@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_every_backbone_is_rebuilt_from_its_saved_config(name: str, models: dict[str, Path]) -> None:
    backbone = small_backbone(name, models, layers=1)
    saved = json.loads(json.dumps(backbone.config))  # as model.json holds it
    rebuilt = rebuild_backbone(backbone.model_type, saved, backbone.num_layers).eval()
    assert type(rebuilt) is type(backbone)
    assert rebuilt.config == backbone.config
    rebuilt.load_state_dict(backbone.state_dict())
    waveform = waveforms()[2][None]
    torch.testing.assert_close(rebuilt.embed(waveform, None)[0], backbone.embed(waveform, None)[0])


def test_the_layer_norm_of_the_encoder_is_applied_once(models: dict[str, Path]) -> None:
    for name, place in (("hubert", 0), ("hubert-layer", 2)):
        backbone: Any = load_backbone(str(models[name]), None)
        calls = 0

        def count(*_: Any) -> None:
            nonlocal calls
            calls += 1

        backbone.norm.register_forward_hook(count)
        x, _ = backbone.embed(waveforms()[2][None], None)
        after = [calls]
        for index in range(2):
            x = backbone.layer(index, x, None)
            after.append(calls)
        assert after == [int(number >= place) for number in range(3)], name


# --- parity with Hugging Face --------------------------------------------------------------------


@torch.no_grad()
def test_whisper_layers_equal_hugging_face_on_30_s() -> None:
    reference = make.with_random_weights(make.whisper_encoder())
    features = torch.randn(2, 80, 3000, generator=torch.Generator().manual_seed(0))
    expected = reference(features, output_hidden_states=True)
    backbone = Whisper(reference, None).eval()

    class Fixed(torch.nn.Module):
        def forward(self, waveform: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
            return features.transpose(1, 2), lengths

    backbone.mel = Fixed()
    x, _ = backbone.embed(torch.ones(2, 16), None)
    torch.testing.assert_close(x, expected.hidden_states[0], atol=1e-5, rtol=1e-5)
    for index in range(2):
        x = backbone.layer(index, x, None)
    torch.testing.assert_close(x, expected.last_hidden_state, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_log_mel_equals_hugging_face_on_30_s() -> None:
    from transformers import WhisperFeatureExtractor

    waveform = np.concatenate([make.speech(3, 120 + 10 * i, seed=i) for i in range(10)]) * 2  # a peak of 1
    waveform[:200] = waveform[-200:] = 0  # the ends are reflected there and zero here
    extractor = WhisperFeatureExtractor()
    expected = extractor(waveform, sampling_rate=16000, return_tensors="pt")["input_features"][0].T
    mel = Whisper(make.whisper_encoder(), None).mel
    got, _ = mel(torch.from_numpy(waveform)[None], None)
    assert got.shape == (1, 3000, 80)
    torch.testing.assert_close(got[0, 3:-3], expected[3:-3], atol=2e-3, rtol=0)


HF_MODELS = {
    "hubert": make.hubert, "hubert-layer": lambda: make.hubert("layer"), "wav2vec2": make.wav2vec2,
    "wavlm": make.wavlm, "wavlm-layer": lambda: make.wavlm("layer"), "data2vec": make.data2vec,
}  # fmt: skip


@pytest.mark.parametrize("name", HF_MODELS)
@torch.no_grad()
def test_layers_over_convolutions_equal_hugging_face(name: str) -> None:
    reference = make.with_random_weights(HF_MODELS[name]())
    waveform = torch.stack([torch.from_numpy(make.speech(0.6, 120 + 60 * i, seed=i)) for i in range(2)])
    standard = (waveform - waveform.mean(dim=1, keepdim=True)) / waveform.std(
        dim=1, keepdim=True, unbiased=False
    )
    expected = reference(standard).last_hidden_state
    (family,) = (family for family in FAMILIES if reference.config.model_type in family.model_types)
    backbone: Any = family(reference, None).eval()
    x, lengths = backbone.embed(waveform, None)
    assert lengths is None
    for index in range(2):
        x = backbone.layer(index, x, None)
    torch.testing.assert_close(x, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_backbone_of_fewer_layers_is_the_first_layers(models: dict[str, Path]) -> None:
    for name in make.SPEECH_MODELS:
        whole = load_backbone(str(models[name]), None).eval()
        first = load_backbone(str(models[name]), 1).eval()
        assert (whole.num_layers, first.num_layers) == (2, 1)
        waveform = waveforms()[2][None]
        one, two = whole.embed(waveform, None)[0], first.embed(waveform, None)[0]
        torch.testing.assert_close(whole.layer(0, one, None), first.layer(0, two, None), msg=name)


def test_bad_backbones_are_refused(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"student\.layers = 3, but the backbone has 2"):
        load_backbone(str(models["whisper"]), 3)
    with pytest.raises(ModelError, match=r"backbone '.*nothing' cannot be loaded.*student\.backbone=DIR"):
        load_backbone(str(tmp_path / "nothing"), None)
    with pytest.raises(ModelError, match=r"bad model type 'bert', expected one of \['whisper'"):
        load_backbone(str(models["bert"]), None)
    with pytest.raises(ModelError, match=r"bad model type 'hubrt', expected .* \(did you mean 'hubert'\?\)"):
        rebuild_backbone("hubrt", {}, 1)
    whisper = load_backbone(str(models["whisper"]), None)
    with pytest.raises(ModelError, match=r"Whisper takes 30 s at most, got 30\.5 s; lower audio\.max_s"):
        whisper.embed(torch.ones(1, 16000 * 61 // 2), None)


# --- student -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("frozen", "pool"), [(0, "last"), (1, (0, 2)), (2, (1, 2)), (2, "mix")])
@torch.no_grad()
def test_prefix_then_suffix_equals_forward(frozen: int, pool: Any, models: dict[str, Path]) -> None:
    student = make.student(small_backbone("whisper", models), frozen=frozen, pool=pool)
    inputs, lengths = padded(waveforms())
    whole = student(inputs, lengths)
    parts = student.suffix(*student.prefix(inputs, lengths))
    assert torch.equal(whole.logits, parts.logits)
    assert set(whole.projections) == {"prosodic", "linguistic"}
    assert whole.projections["prosodic"].shape == (5, 8)
    assert torch.allclose(whole.embedding.norm(dim=1), torch.ones(5), atol=1e-5)


@pytest.mark.parametrize(("frozen", "pool"), [(2, (1, 2)), (2, (2, 1)), (2, (0, 2)), (2, (1,)), (1, (1, 2))])
@torch.no_grad()
def test_pooled_states_are_in_the_order_of_the_recipe(
    frozen: int, pool: tuple[int, ...], models: dict[str, Path]
) -> None:
    student = make.student(small_backbone("whisper", models), frozen=frozen, pool=pool)
    x, mask = student.backbone.embed(waveforms()[0][None], None)[0], None
    layers = [x]
    for index in range(2):
        layers.append(student.backbone.layer(index, layers[-1], mask))
    hidden = student(waveforms()[0][None]).hidden
    assert torch.equal(hidden, torch.cat([layers[layer] for layer in pool], dim=2))


def test_frozen_layers_get_no_gradient(models: dict[str, Path]) -> None:
    student = make.student(small_backbone("hubert", models), frozen=1).train()
    student(*padded(waveforms())).logits.square().sum().backward()
    trained = {name for name, value in student.named_parameters() if value.grad is not None}
    assert any(name.startswith("backbone.blocks.1.") for name in trained)
    assert not any(
        name.startswith("backbone.") and not name.startswith("backbone.blocks.1.") for name in trained
    )


def test_a_pooled_layer_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"student\.pool = \[3\], but the backbone's layers are 0 … 2"):
        Student(Compact(16, 2), StudentConfig(pool=(3,)), 4, {})


def test_a_compact_student_has_at_most_3_million_parameters() -> None:
    student = Student(
        load_backbone("compact", None), StudentConfig(backbone="compact"), 8,
        {"prosodic": 128, "linguistic": 128, "acoustic": 256, "acoustic_hidden": 512},
    )  # fmt: skip
    assert sum(value.numel() for value in student.parameters()) <= 3_000_000


@torch.no_grad()
def test_a_student_starts_with_the_logits_of_its_probe(models: dict[str, Path]) -> None:
    student = make.student(small_backbone("whisper", models), frozen=2, probe=0.5)
    generator = torch.Generator().manual_seed(0)
    dim = student.embed.in_features
    mean, std = torch.randn(dim, generator=generator), 1 + torch.rand(dim, generator=generator)
    weight, bias = torch.randn(4, dim, generator=generator), torch.randn(4, generator=generator)
    student.set_standardisation(mean, std)
    student.set_probe(weight, bias)
    item = waveforms()[1][None]
    states, _ = student.prefix(item, None)
    expected = weight @ ((student.pooled_statistics(states[0]) - mean) / std) + bias
    torch.testing.assert_close(student(item, None).logits[0], expected, atol=1e-3, rtol=1e-4)


# --- layers --------------------------------------------------------------------------------------


@torch.no_grad()
def test_untrained_pooling_gives_mean_and_deviation() -> None:
    x = torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([9, 5])
    for pool in (AttentiveStatistics(8), PlainStatistics()):
        pooled = pool(x, frame_mask(lengths, 9))
        for row, length in enumerate(lengths.tolist()):
            valid = x[row, :length]
            expected = torch.cat([valid.mean(dim=0), (valid.var(dim=0, unbiased=False) + 1e-5).sqrt()])
            torch.testing.assert_close(pooled[row], expected)
            torch.testing.assert_close(pool(valid[None], None)[0], expected)


@pytest.mark.parametrize("masked", [True, False])
def test_trained_pooling_equals_the_formula_of_the_paper(masked: bool) -> None:
    """Values and gradients, against the formula written out: Okabe et al. 2018, equations 5 and 6."""
    torch.manual_seed(0)
    pool = AttentiveStatistics(12, num_heads=3, hidden=5).double()
    torch.nn.init.normal_(pool.score[-1].weight)
    x = torch.randn(4, 9, 12, dtype=torch.float64, requires_grad=True)
    mask = frame_mask(torch.tensor([9, 5, 1, 7]), 9) if masked else None
    scores = pool.score(x)
    weights = (scores if mask is None else scores.masked_fill(~mask[:, :, None], float("-inf"))).softmax(1)
    means, deviations = [], []
    for head in range(3):
        part, weight = x[:, :, 4 * head : 4 * head + 4], weights[:, :, head, None]
        mean = (weight * part).sum(dim=1)
        means.append(mean)
        deviations.append(((weight * (part - mean[:, None]) ** 2).sum(dim=1) + 1e-5).sqrt())
    expected = torch.cat([*means, *deviations], dim=1)
    got = pool(x, mask)
    torch.testing.assert_close(got, expected)
    direction = torch.randn_like(expected)
    inputs = [x, *pool.parameters()]
    for one, other in zip(
        torch.autograd.grad((got * direction).sum(), inputs),
        torch.autograd.grad((expected * direction).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@torch.no_grad()
def test_the_cosine_classifier_ignores_length() -> None:
    classifier = CosineClassifier(3, 2, scale=10.0)
    classifier.weight.copy_(torch.tensor([[2.0, 0, 0], [0, 1, 0]]))
    logits = classifier(torch.tensor([[5.0, 0, 0], [3.0, 4.0, 0]]))
    torch.testing.assert_close(logits, torch.tensor([[10.0, 0], [6.0, 8.0]]))


# --- the prosodic teacher's input ----------------------------------------------------------------


def llds(frames: int = 60, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    out = np.abs(rng.standard_normal((frames, 25))).astype(np.float32) + 0.1
    out[:, 10] = np.where(rng.random(frames) < 0.6, 24 + rng.standard_normal(frames), 0)
    return out


def test_planes_are_normalised_by_the_training_split() -> None:
    corpus = [llds(80, seed) for seed in range(10)]
    mean, std = lld_statistics(corpus)
    inputs = [make_planes(item, mean, std) for item in corpus]
    assert all(item.shape == (40, NUM_PLANES) and item.dtype == np.float32 for item in inputs)
    assert all(np.isfinite(item).all() for item in inputs)
    always = np.concatenate([item[:, :10] for item in inputs])  # columns that are valid on every frame
    assert np.abs(always.mean(axis=0)).max() < 0.05
    assert make_planes(llds(61), mean, std).shape == (31, NUM_PLANES)


def test_unvoiced_speech_has_finite_planes() -> None:
    silent = np.zeros((11, 25), dtype=np.float32)
    mean, std = lld_statistics([silent, llds()])
    assert np.isfinite(make_planes(silent, mean, std)).all()


def test_augmented_planes_depend_only_on_the_generator() -> None:
    clean = make_planes(llds(90), *lld_statistics([llds(90)]))
    before = clean.copy()
    one, two, other = (
        augment_planes(clean, ProsodicConfig(), np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert np.array_equal(one, two)
    assert one.shape != other.shape or not np.array_equal(one, other)
    assert np.array_equal(clean, before), "the clean planes must stay as they are"
    assert np.isfinite(augment_planes(clean[:1], ProsodicConfig(), np.random.default_rng(3))).all()


# --- checkpoints ---------------------------------------------------------------------------------


def every_kind(models: dict[str, Path]) -> dict[str, torch.nn.Module]:
    bert = LinguisticConfig(encoder=str(models["bert"]), embedding_dim=8)
    scratch = LinguisticConfig(encoder="scratch", embedding_dim=8)
    return {
        "prosodic": ProsodicTeacher(ProsodicConfig(width=8, embedding_dim=8), 4),
        "bert": LinguisticTeacher.create(bert, 4, []),
        "scratch": LinguisticTeacher.create(scratch, 4, ["stop that now"]),
        **{name: make.student(small_backbone(name, models), frozen=name == "whisper") for name in BACKBONES},
    }


def logits_of(model: torch.nn.Module) -> Tensor:
    model.eval()
    if isinstance(model, LinguisticTeacher):
        return model(model.tokenize("stop that now please")[None], None).logits
    if isinstance(model, ProsodicTeacher):
        item = torch.from_numpy(make_planes(llds(), np.zeros(25, np.float32), np.ones(25, np.float32)))
        return model(item[None], None).logits
    return model(waveforms()[2][None], None).logits


@torch.no_grad()
def test_a_loaded_checkpoint_gives_the_same_logits(models: dict[str, Path], tmp_path: Path) -> None:
    for name, model in every_kind(models).items():
        folder = tmp_path / name
        save_checkpoint(folder, model, LABELS, ("a", "b"))
        checkpoint = load_checkpoint(folder)
        assert not checkpoint.model.training
        assert (checkpoint.labels, checkpoint.training_ids) == (LABELS, ("a", "b"))
        assert torch.equal(logits_of(checkpoint.model), logits_of(model)), name
        assert {field.name for field in fields(checkpoint)} == {"model", "labels", "training_ids", "info"}
        assert not [path for path in folder.iterdir() if path.suffix in (".pt", ".bin", ".pkl")]


def test_incomplete_or_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    model = ProsodicTeacher(ProsodicConfig(width=8, embedding_dim=8), 4)
    folder = tmp_path / "teacher"

    def fresh() -> Path:
        save_checkpoint(folder, model, LABELS, ())
        return folder

    for name in ("model.json", "model.safetensors"):
        (fresh() / name).unlink()
        with pytest.raises(ModelError, match=rf"is not a complete checkpoint: it has no {name}"):
            load_checkpoint(folder)

    weights = load_file(fresh() / "model.safetensors")
    for change in ("missing", "foreign", "shape"):
        changed = dict(weights)
        if change == "missing":
            del changed["embed.weight"]
        elif change == "foreign":
            changed["extra.weight"] = torch.zeros(2)
        else:
            changed["embed.weight"] = torch.zeros(3, 3)
        save_file(changed, folder / "model.safetensors")
        with pytest.raises(ModelError, match=r"the weights do not fit model\.json"):
            load_checkpoint(folder)

    data = (fresh() / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match=re.escape(str(folder))):
        load_checkpoint(folder)

    for key, value, message in (
        ("format", 99, "checkpoint format 99, this version reads 1"),
        ("kind", "prosodik", "bad kind 'prosodik'.*did you mean 'prosodic'"),
    ):
        info = json.loads((fresh() / "model.json").read_text())
        (folder / "model.json").write_text(json.dumps({**info, key: value}))
        with pytest.raises(ModelError, match=message):
            load_checkpoint(folder)


def test_warping_multiplies_the_frequencies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    time = torch.arange(16000) / 16000
    mel = LogMel()

    def tone(hertz: float) -> torch.Tensor:
        return mel((2 * np.pi * hertz * time).sin()[None], None)[0][:, 10:-10].mean(dim=1)[0]

    for draw, factor in ((1.0, 1.2), (0.5, 1.0), (0.0, 0.8)):  # content at f * factor comes to be at f
        monkeypatch.setattr(torch, "rand", lambda *size, draw=draw: torch.full(size, draw))
        warped = warp_frequencies(tone(1800.0)[None, None], 0.2)[0, 0]
        assert abs(int(warped.argmax()) - int(tone(1800.0 / factor).argmax())) <= 1


@given(st.integers(0, 10**6), st.floats(0.01, 0.49))
def test_warping_adds_no_new_extremes_and_moves_no_frame(seed: int, most: float) -> None:
    torch.manual_seed(seed)
    mel = torch.randn(3, 7, 80)
    out = warp_frequencies(mel, most)
    assert out.shape == mel.shape
    assert (out <= mel.amax(dim=2, keepdim=True) + 1e-5).all()
    assert (out >= mel.amin(dim=2, keepdim=True) - 1e-5).all()
    level = torch.randn(3, 7, 1).expand(3, 7, 80)  # the same in all bands: nothing to move
    torch.testing.assert_close(warp_frequencies(level, most), level)


@given(st.integers(0, 10**6), st.floats(0.01, 0.99))
def test_masked_bands_are_equal_in_all_frames_and_limited(seed: int, most: float) -> None:
    torch.manual_seed(seed)
    mel = torch.ones(4, 5, 80)
    out = mask_bands(mel, most)
    assert ((out == 0) | (out == 1)).all()
    assert (out == out[:, :1]).all()
    assert (80 - out[:, 0].sum(dim=1) <= 2 * most * 80 + 2).all()


def test_the_spectrogram_is_augmented_in_training_only() -> None:
    config = StudentConfig(backbone="compact", width=16, layers=1, warp=0.2, band_mask=0.3, dropout=0.0)
    torch.manual_seed(0)
    student = Student(load_backbone("compact", 1, 16), config, 4, {})
    sound = torch.from_numpy(make.speech(0.6))[None]
    student.eval()
    torch.testing.assert_close(student(sound).logits, student(sound).logits, rtol=0, atol=0)
    student.train()
    assert not torch.allclose(student(sound).logits, student(sound).logits)


def test_spectrogram_augmentation_is_refused_for_frozen_layers() -> None:
    with pytest.raises(ValueError, match="states of frozen layers are computed without it"):
        StudentConfig(frozen=2, layers=2, warp=0.1)


def test_the_log_mel_is_in_float32_under_autocast() -> None:
    mel, sound = LogMel(), torch.from_numpy(make.speech(0.5))[None]
    expected, _ = mel(sound, None)
    with torch.autocast("cpu", torch.bfloat16):
        actual, _ = mel(sound, None)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
