"""Batches, views, padding, cached states and targets."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import factories as make
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor

from emodistill.audio.waveform import content_hash
from emodistill.config import AudioConfig, AugmentConfig, ProsodicConfig, StudentConfig, stable_seed
from emodistill.corpora import Utterance, read_manifest
from emodistill.errors import ModelError
from emodistill.features.preparation import PREPARATION, prepare_waveform
from emodistill.labels import LabelSet
from emodistill.models.backbones import load_backbone
from emodistill.models.student import Student
from emodistill.training.batches import Batches, make_loader
from emodistill.training.data import (
    CLEAN,
    LldSource,
    StateSource,
    TokenSource,
    UtteranceDataset,
    WaveformSource,
    collate,
    view_of,
)
from emodistill.training.stages import _prefix_hash, cache_states, fit_probe, fit_standardisation
from emodistill.training.targets import TeacherTargets, TeacherTargetSource, downsample, pack_hidden

AUGMENT = AugmentConfig(views=3, noise_snr_db=(5.0, 20.0), noise_probability=1.0)


class Sizes:
    """Inputs of given sizes. Each is filled with its index."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = sizes

    def __call__(self, index: int, epoch: int) -> Tensor:
        return torch.full((self.sizes[index], 2), float(index))

    def size(self, index: int) -> float:
        return self.sizes[index]


def dataset(count: int, seed: int = 0) -> UtteranceDataset:
    sizes = np.random.default_rng(seed).integers(1, 30, count).tolist()
    return UtteranceDataset(Sizes(sizes), [0] * count)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.integers(1, 12), st.integers(0, 5), st.integers(-1, 4), st.integers(1, 9))
def test_every_utterance_is_in_exactly_one_batch(
    count: int, size: int, seed: int, epoch: int, bucket: int
) -> None:
    batches = list(Batches(dataset(count), size, seed, epoch, bucket))
    seen = [index for batch in batches for _, index in batch]
    assert sorted(seen) == list(range(count))
    assert {number for batch in batches for number, _ in batch} == {epoch}
    lengths = [len(batch) for batch in batches]
    assert max(lengths) <= size
    assert max(lengths) - min(lengths) <= 1, "no batch is a small remainder"


def test_batches_depend_on_seed_and_epoch_alone() -> None:
    by_seed = {
        (seed, epoch): list(Batches(dataset(50), 8, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)
    }
    assert list(Batches(dataset(50), 8, 0, 1)) == by_seed[0, 1]
    orders = [[index for batch in batches for _, index in batch] for batches in by_seed.values()]
    assert len({tuple(order) for order in orders}) == 4
    assert list(Batches(dataset(50), 8, 0, CLEAN)) == list(Batches(dataset(50), 8, 7, CLEAN))


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("epoch", [0, 3])
def test_the_processes_divide_each_batch_among_them(world: int, epoch: int) -> None:
    whole = list(Batches(dataset(50), 8, 0, epoch))
    shares = [list(Batches(dataset(50), 8, 0, epoch, rank=rank, world_size=world)) for rank in range(world)]
    for number, batch in enumerate(whole):
        parts = [share[number] for share in shares]
        assert sorted(key for part in parts for key in part) == sorted(batch)


def test_buckets_hold_utterances_of_similar_size() -> None:
    data = dataset(400)

    def padding(bucket: int) -> float:
        batches = Batches(data, 8, 0, 0, bucket)
        sizes = [[data.source.size(index) for _, index in batch] for batch in batches]
        return float(np.mean([1 - np.mean(item) / max(item) for item in sizes]))

    assert padding(8) < 0.15 < padding(1)


def test_collate_pads_the_end_to_a_multiple_of_16() -> None:
    data = UtteranceDataset(Sizes([3, 17, 5]), [2, 0, 1])
    batch = collate([data[(0, index)] for index in (2, 0, 1)])
    assert batch.inputs.shape == (3, 32, 2)
    assert batch.lengths.tolist() == [5, 3, 17]
    assert (batch.labels.tolist(), batch.indices.tolist()) == ([1, 2, 0], [2, 0, 1])
    for row, length in enumerate(batch.lengths.tolist()):
        assert (batch.inputs[row, :length] == batch.indices[row]).all()
        assert (batch.inputs[row, length:] == 0).all()


def test_loader_gives_the_batches_in_order() -> None:
    data = dataset(20)
    batches = Batches(data, 6, 0, 2)
    loaded = [batch.indices.tolist() for batch in make_loader(data, batches)]
    assert loaded == [[index for _, index in batch] for batch in batches]


def test_a_view_is_a_function_of_seed_epoch_and_utterance() -> None:
    views = [view_of(AUGMENT, 0, epoch, "a") for epoch in range(40)]
    assert views == [view_of(AUGMENT, 0, epoch, "a") for epoch in range(40)]
    assert set(views) == {0, 1, 2}
    assert views != [view_of(AUGMENT, 1, epoch, "a") for epoch in range(40)]
    assert views != [view_of(AUGMENT, 0, epoch, "b") for epoch in range(40)]
    assert view_of(AUGMENT, 0, CLEAN, "a") == 0
    fresh = AugmentConfig(views=0)
    assert [view_of(fresh, 0, epoch, "a") for epoch in (CLEAN, 0, 1, 2)] == [0, 1, 2, 3]


def test_waveforms_are_clean_in_evaluation_and_reproducible_in_training(manifest: Path) -> None:
    utterances = read_manifest(manifest).utterances[:4]
    source = WaveformSource(utterances, AudioConfig(), AUGMENT, seed=0)
    clean = source(0, CLEAN)
    noisy = [epoch for epoch in range(20) if view_of(AUGMENT, 0, epoch, utterances[0].id)]
    assert noisy, "twenty epochs hold augmented views"
    for epoch in noisy[:4]:
        assert torch.equal(source(0, epoch), source(0, epoch))
        assert not torch.equal(source(0, epoch), clean)
    assert torch.equal(source.at_view(0, 0), clean)


BABBLE = AugmentConfig(fresh=True, babble_snr_db=(0.0, 10.0), babble_probability=1.0)


@pytest.mark.parametrize("num_train", [8, 3])
def test_babble_is_made_of_other_training_utterances_and_if_possible_of_other_speakers(
    num_train: int, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed: list[np.ndarray] = []

    def add_babble(waveform: np.ndarray, voices: list[np.ndarray], *others: Any) -> np.ndarray:
        mixed.extend(voices)
        return waveform

    monkeypatch.setattr("emodistill.features.augment.add_babble", add_babble)
    utterances = read_manifest(manifest).utterances[:12]  # six of each of two speakers
    source = WaveformSource(utterances, AudioConfig(), BABBLE, seed=0, num_babble=num_train)
    waveforms = {item.id: prepare_waveform(item, AudioConfig()) for item in utterances}
    for index, own in enumerate(utterances):
        mixed.clear()
        source(index, 3)
        others = [item for item in utterances[:num_train] if item.id != own.id]
        expected = [item for item in others if item.speaker != own.speaker] or others
        used = {
            name for name, waveform in waveforms.items() if any(np.array_equal(waveform, x) for x in mixed)
        }
        assert used == {item.id for item in expected}
        assert len(mixed) == len(expected)


def test_babble_is_a_function_of_seed_epoch_and_utterance_and_absent_in_evaluation(manifest: Path) -> None:
    utterances = read_manifest(manifest).utterances[:6]
    sources = [WaveformSource(utterances, AudioConfig(), BABBLE, seed=seed) for seed in (0, 0, 1)]
    first = sources[0](0, 2)
    assert torch.equal(sources[0](0, 2), first)
    sources[1](3, 0)  # a run that is resumed reads the utterances in another order
    assert torch.equal(sources[1](0, 2), first)
    assert not torch.equal(sources[0](0, 3), first)
    assert not torch.equal(sources[2](0, 2), first)
    assert torch.equal(sources[0](0, CLEAN), torch.from_numpy(prepare_waveform(utterances[0], AudioConfig())))


def test_planes_are_augmented_only_in_training() -> None:
    planes = [np.random.default_rng(0).standard_normal((40, 101)).astype(np.float32)]
    source = LldSource(planes, ["a"], ProsodicConfig(), seed=3)
    assert torch.equal(source(0, CLEAN), torch.from_numpy(planes[0]))
    assert torch.equal(source(0, 1), source(0, 1))
    assert source(0, 1).shape != source(0, 2).shape or not torch.equal(source(0, 1), source(0, 2))
    other = LldSource(planes, ["a"], ProsodicConfig(), seed=4)
    assert other(0, 1).shape != source(0, 1).shape or not torch.equal(other(0, 1), source(0, 1))


def test_tokens_do_not_depend_on_the_epoch() -> None:
    source = TokenSource([torch.tensor([1, 2, 3]), torch.tensor([4])])
    assert torch.equal(source(0, 5), source(0, CLEAN))
    assert [source.size(index) for index in (0, 1)] == [3, 1]


# --- cached states -------------------------------------------------------------------------------


def states_of(student: Student, manifest: Path, views: int = 2) -> tuple[StateSource, tuple[Utterance, ...]]:
    utterances = read_manifest(manifest).utterances[:5]
    return cache_states(student, utterances, AudioConfig(), AUGMENT, views, seed=0), utterances


@torch.no_grad()
def test_cached_states_are_the_prefix_within_half_precision(
    manifest: Path, models: dict[str, Path], own_cache: Path
) -> None:
    student = make.student(load_backbone(str(models["whisper"]), None), frozen=1, pool=(0, 2))
    source, utterances = states_of(student, manifest)
    live = WaveformSource(utterances, AudioConfig(), AUGMENT, seed=0)
    for index in range(len(utterances)):
        for view in (0, 1):
            cached = source.at_view(index, view)
            states, _ = student.prefix(live.at_view(index, view)[None], None)
            assert cached.dtype == torch.float16
            torch.testing.assert_close(cached.float(), states[0], atol=5e-3, rtol=2e-3)
            direct = student(live.at_view(index, view)[None], None).logits
            suffix = student.suffix(cached[None].float(), None).logits
            torch.testing.assert_close(suffix, direct, atol=2e-2, rtol=0)
    assert torch.equal(source(0, CLEAN), source.at_view(0, 0))
    assert not torch.equal(source.at_view(0, 0), source.at_view(0, 1))


def test_states_are_computed_once_and_never_shared_between_backbones(
    manifest: Path, models: dict[str, Path], own_cache: Path
) -> None:
    def files() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in own_cache.rglob("*.npy")}

    first = make.student(load_backbone(str(models["whisper"]), None), frozen=1)
    states_of(first, manifest)
    before = files()
    assert len(before) == 10
    states_of(first, manifest)
    assert files() == before

    other = make.student(load_backbone(str(models["whisper"]), None), frozen=1)
    with torch.no_grad():
        other.backbone.conv1.weight[0, 0, 0] += 0.1
    states_of(other, manifest)
    assert len(files()) == 20

    # Training above the frozen layers does not change their states.
    with torch.no_grad():
        for value in other.backbone.blocks[1].parameters():
            value.add_(0.1)
    states_of(other, manifest)
    assert len(files()) == 20


def test_fresh_channels_share_the_cached_states_of_the_clean_view(
    manifest: Path, models: dict[str, Path], own_cache: Path
) -> None:
    utterances = read_manifest(manifest).utterances[:2]
    student = make.student(load_backbone(str(models["whisper"]), None), frozen=1)
    fresh = AugmentConfig(views=1, fresh=True, gain_db=6.0)
    alone = cache_states(student, utterances, AudioConfig(), fresh, 1, seed=0)
    several = cache_states(student, utterances, AudioConfig(), AUGMENT, 2, seed=0)
    assert [key for (key,) in alone.keys] == [clean for clean, _ in several.keys]


def test_kinds_of_augmentation_that_are_off_do_not_change_the_keys_of_cached_views(
    manifest: Path, models: dict[str, Path], own_cache: Path
) -> None:
    student = make.student(load_backbone(str(models["whisper"]), None), frozen=1)
    source, utterances = states_of(student, manifest)
    # This text is fixed: another one would discard the cached views of every recipe.
    settings = (
        "views=3 seed=0 speed=0.0 fresh=False gain_db=0.0 equalise_db=0.0 noise_snr_db=(5.0, 20.0) "
        "noise_probability=1.0 reverb_probability=0.0 band_limit_probability=0.0 codec_probability=0.0"
    )
    clean = f"{_prefix_hash(student)}|{PREPARATION}|{AudioConfig()}"
    item = utterances[0]
    assert item.path is not None
    recording = content_hash(item.path, item.start_s, item.end_s)
    assert source.keys[0][1] == f"{recording}-{stable_seed(f'{clean}|{settings}|1|{item.id}'):016x}"
    music = AUGMENT.model_copy(update={"music_snr_db": (5.0, 20.0)})
    with_music = cache_states(student, utterances, AudioConfig(), music, 2, seed=0)
    assert with_music.keys[0][0] == source.keys[0][0]
    assert with_music.keys[0][1] != source.keys[0][1]


@pytest.mark.parametrize("classes", [2, 3])
@torch.no_grad()
def test_a_probe_is_linear_discriminant_analysis(
    classes: int, manifest: Path, models: dict[str, Path], own_cache: Path
) -> None:
    utterances = read_manifest(manifest).utterances[:15]
    emotions = [("sad", "angry", "happy")[index % classes] for index in range(len(utterances))]
    backbone = load_backbone(str(models["whisper"]), None)
    student = Student(
        backbone, StudentConfig(backbone="x", frozen=2, probe=0.3, embedding_dim=8), classes, {}
    ).eval()
    source = cache_states(student, utterances, AudioConfig(), AUGMENT, 2, seed=0)
    pooled = fit_standardisation(student, source)
    fit_probe(student, pooled, emotions, 0.3)
    rows = [
        student.pooled_statistics(source.at_view(index, view).float())
        for view in (0, 1)
        for index in range(15)
    ]
    x = torch.stack(rows)
    z = ((x - x.mean(dim=0)) / (x.std(dim=0) + 1e-6)).double().numpy()
    torch.testing.assert_close(pooled.double(), torch.from_numpy(z))
    torch.testing.assert_close(student.norm(x), pooled)
    probe = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.3).fit(z, emotions * 2)
    logits = [student.suffix(source.at_view(index, 0).float()[None], None).logits[0] for index in range(15)]
    names = LabelSet.from_emotions(emotions).names
    assert [names[int(row.argmax())] for row in logits] == probe.predict(z[:15]).tolist()


@torch.no_grad()
def test_layers_that_will_be_trained_are_standardised_on_the_clean_view(
    manifest: Path, models: dict[str, Path], own_cache: Path
) -> None:
    utterances = read_manifest(manifest).utterances[:6]
    config = StudentConfig(backbone="x", frozen=1, pool=(1, 2), embedding_dim=8)
    student = Student(load_backbone(str(models["whisper"]), None), config, 3, {}).eval()
    source = cache_states(student, utterances, AudioConfig(), AUGMENT, 2, seed=0)
    pooled = fit_standardisation(student, source)
    assert len(pooled) == 6, "the clean view alone"
    torch.testing.assert_close(pooled.mean(dim=0), torch.zeros(pooled.shape[1]), atol=1e-4, rtol=0)
    for index in range(6):
        hidden = student.suffix(source.at_view(index, 0).float()[None], None).hidden  # the clean view
        assert hidden is not None
        torch.testing.assert_close(student.norm(student.pool(hidden, None))[0], pooled[index])


# --- targets -------------------------------------------------------------------------------------


def test_hidden_states_are_averaged_down_to_25_a_second() -> None:
    states = torch.arange(100.0)[:, None].repeat(1, 2)
    slow = downsample(states, 2.0)  # 50 a second
    torch.testing.assert_close(slow, torch.arange(0.5, 100, 2)[:, None].repeat(1, 2))
    torch.testing.assert_close(downsample(states, 4.0), states)
    torch.testing.assert_close(downsample(states[:1], 0.02), states[:1])


def test_packed_hidden_states_are_standardised_over_all_frames() -> None:
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([1.0, 500.0])  # as in the states of transformers
    states = [[100 + scale * torch.randn(n, 2, generator=generator) for n in (40, 60)] for _ in range(3)]
    packed, offsets = pack_hidden(states)
    assert packed.dtype == torch.float16
    torch.testing.assert_close(packed.float().mean(dim=0), torch.zeros(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(packed.float().std(dim=0), torch.ones(2), atol=1e-2, rtol=0)
    start, end = offsets[1, 1].tolist()
    everything = torch.cat([item for row in states for item in row])
    expected = (states[1][1] - everything.mean(dim=0)) / everything.std(dim=0)
    torch.testing.assert_close(packed[start:end].float(), expected, atol=5e-3, rtol=0)


def some_targets(hidden: bool = False) -> TeacherTargets:
    generator = torch.Generator().manual_seed(0)
    states = [[torch.randn(frames + view, 4, generator=generator) for view in range(3)] for frames in (3, 5)]
    packed = pack_hidden(states) if hidden else (None, None)
    return TeacherTargets(
        ("a", "b"), torch.randn(2, 3, generator=generator), torch.randn(2, 5, generator=generator),
        torch.tensor([True, False]), *packed,
    )  # fmt: skip


@pytest.mark.parametrize("hidden", [False, True])
def test_targets_round_trip(hidden: bool, tmp_path: Path) -> None:
    targets, path = some_targets(hidden), tmp_path / "targets.safetensors"
    targets.write(path, "prosodic", "in-sample")
    read = TeacherTargets.read(path, ["a", "b"])
    for name in ("logits", "embedding", "available", "hidden", "offsets"):
        one, two = getattr(targets, name), getattr(read, name)
        assert (one is None and two is None) or torch.equal(one, two), name
    assert [entry.name for entry in tmp_path.iterdir()] == ["targets.safetensors"]
    with pytest.raises(ModelError, match=r"holds the targets of 2 other utterances, expected 2 of this fold"):
        TeacherTargets.read(path, ["b", "a"])


def test_hidden_targets_follow_the_view() -> None:
    targets = some_targets(hidden=True)
    source = TeacherTargetSource(targets, [0, 1], AUGMENT, seed=0)
    for index, frames in enumerate((3, 5)):
        for epoch in range(8):
            view = view_of(AUGMENT, 0, epoch, targets.ids[index])
            assert source(index, epoch)["hidden"].shape == (frames + view, 4)
        assert source(index, CLEAN)["hidden"].shape == (frames, 4)
    assert not source(1, 0)["available"]
    second = TeacherTargetSource(
        targets, [1], AUGMENT, seed=0
    )  # a student that cannot use the first utterance
    for epoch in range(4):
        for name, value in second(0, epoch).items():
            assert torch.equal(value, source(1, epoch)[name]), name
