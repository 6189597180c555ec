"""Training with voice contexts: what a context is, and that runs with voices resume and are exported."""

from pathlib import Path

import factories as make
import numpy as np
import onnxruntime
import pytest
import torch

from emodistill import Recognizer
from emodistill.config import VoiceConfig
from emodistill.corpora import Utterance
from emodistill.errors import ConfigError
from emodistill.inference.model_card import read_card
from emodistill.inference.voices import shrinkage
from emodistill.models.student import RunningStandardise
from emodistill.training import fit as fit_module
from emodistill.training.batches import Batches
from emodistill.training.cross_validation import crossval
from emodistill.training.data import UtteranceDataset
from emodistill.training.voices import VoiceContexts, crop, crop_span, known_speakers

SPEAKERS = [*"aaaaaa", *"bbb", None, None, "c"]
EVERYONE = range(len(SPEAKERS))
CONFIG = VoiceConfig(none_probability=0.0, max_known=4)
STATISTICS = torch.eye(len(SPEAKERS))  # each utterance has a dimension of its own


def contexts(config: VoiceConfig = CONFIG, seed: int = 0) -> VoiceContexts:
    """Contexts over `SPEAKERS`."""
    return VoiceContexts(config, SPEAKERS, seed)


def check_context(context: torch.Tensor, index: int) -> int:
    """Check a context over `STATISTICS`; returns the number of utterances in it."""
    known = context.nonzero()[:, 0].tolist()
    assert index not in known
    assert all(SPEAKERS[other] == SPEAKERS[index] for other in known)
    if known:
        assert context[known].tolist() == pytest.approx([shrinkage(len(known)) / len(known)] * len(known))
    return len(known)


@pytest.mark.parametrize("epoch", range(5))
def test_a_context_is_the_shrunk_mean_of_other_utterances_of_the_speaker(epoch: int) -> None:
    from_table = contexts().from_table(STATISTICS, epoch, EVERYONE)
    from_batch = contexts().from_batch(STATISTICS, epoch, EVERYONE)
    with_known = contexts().with_known(STATISTICS, 3)
    for index, speaker in enumerate(SPEAKERS):
        most = {"a": 5, "b": 2}.get(str(speaker), 0)
        assert min(1, most) <= check_context(from_table[index], index) <= min(4, most)
        assert min(1, most) <= check_context(from_batch[index], index) <= most
        assert check_context(with_known[index], index) == min(3, most)


def test_a_context_is_a_function_of_seed_epoch_and_utterance() -> None:
    first = contexts().from_table(STATISTICS, 0, EVERYONE)
    order = [7, 2, 0]
    assert torch.equal(contexts().from_table(STATISTICS, 0, order), first[order])
    assert not torch.equal(contexts().from_table(STATISTICS, 1, EVERYONE), first)
    assert not torch.equal(contexts(seed=1).from_table(STATISTICS, 0, EVERYONE), first)


def test_the_order_of_a_batch_does_not_change_its_contexts() -> None:
    order = np.random.default_rng(0).permutation(len(SPEAKERS)).tolist()
    inverse = np.argsort(order)
    shuffled = contexts().from_batch(STATISTICS[order], 0, order)[inverse]
    assert torch.equal(shuffled, contexts().from_batch(STATISTICS, 0, EVERYONE))


def test_no_gradient_flows_through_a_context() -> None:
    statistics = STATISTICS.clone().requires_grad_()
    assert not contexts().from_batch(statistics, 0, EVERYONE).requires_grad


def test_an_utterance_without_a_context_is_moved_towards_another_speaker() -> None:
    config = VoiceConfig(none_probability=1.0, move_probability=0.5, max_known=2)
    moves = torch.stack([contexts(config).from_table(STATISTICS, epoch, EVERYONE) for epoch in range(200)])
    usual = {name: STATISTICS[[item == name for item in SPEAKERS]].mean(dim=0) for name in "ab"}
    for index, speaker in enumerate(SPEAKERS):
        own = moves[:, index]
        if speaker not in usual:  # unknown, or with too few utterances
            assert not own.any()
            continue
        direction = usual[speaker] - usual["b" if speaker == "a" else "a"]
        share = own @ direction / (direction @ direction)
        torch.testing.assert_close(own, share[:, None] * direction)
        assert 0 <= float(share.min()) < float(share.max()) <= 1
        # Half of the utterances are moved, and half of these towards the speaker itself, so not at all.
        assert float((share > 0).float().mean()) == pytest.approx(0.25, abs=0.1)
    again = contexts(config).from_table(STATISTICS, 7, EVERYONE)
    assert torch.equal(again, moves[7])


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_none_probability_is_the_share_of_utterances_without_a_context(probability: float) -> None:
    config = VoiceConfig(none_probability=probability)
    drawn = [
        contexts(config).from_table(STATISTICS, epoch, range(9)).any(dim=1).float().mean()
        for epoch in range(200)
    ]
    assert float(torch.stack(drawn).mean()) == pytest.approx(1 - probability, abs=0.04)


def test_a_mean_over_more_utterances_is_shrunk_less_up_to_five() -> None:
    assert [shrinkage(n) for n in (0, 1, 2, 5)] == [0, 1 / 2, 2 / 3, 5 / 6]
    assert [shrinkage(n) for n in (6, 10, 20)] == [6 / 9, 10 / 13, 20 / 23]


def test_a_corpus_that_does_not_tell_speakers_apart_has_none() -> None:
    def utterances(corpus: str, speakers: str) -> list[Utterance]:
        return [Utterance(f"{corpus}{n}", name, "sad", corpus=corpus) for n, name in enumerate(speakers)]

    mixed = utterances("one", "xxx") + utterances("each", "abc") + utterances("known", "ppq")
    assert known_speakers(mixed) == [None] * 6 + ["p", "p", "q"]


def test_a_crop_has_the_length_that_the_recipe_gives() -> None:
    config = VoiceConfig(crop_probability=1.0, crop_s=(1.0, 3.0))
    samples = torch.arange(80_000)
    for epoch in range(50):
        start, end = crop_span(config, 0, epoch, "u", 5.0)
        assert 1.0 <= 5 * (end - start) <= 3.0
        part = crop(samples, (start, end))
        assert torch.equal(part, torch.arange(int(part[0]), int(part[-1]) + 1))
        assert len(part) == pytest.approx(16_000 * 5 * (end - start), abs=1)
    assert crop_span(config, 0, 0, "u", 0.9) == (0.0, 1.0)  # shorter than every crop
    assert crop_span(None, 0, 0, "u", 5.0) == (0.0, 1.0)


def test_a_batch_holds_several_utterances_of_a_speaker() -> None:
    speakers = [f"s{index % 6}" for index in range(100)]

    class Lengths:
        def __call__(self, index: int, epoch: int) -> torch.Tensor:
            return torch.zeros(index + 1)

        def size(self, index: int) -> float:
            return index

    dataset = UtteranceDataset(Lengths(), [0] * 100, speakers=speakers)
    batches = list(Batches(dataset, 16, 0, 0, bucket=2, per_speaker=4))
    assert sorted(index for batch in batches for _, index in batch) == list(range(100))
    for batch in batches:
        counts = np.unique([speakers[index] for _, index in batch], return_counts=True)[1]
        assert len(batch) <= 16
        assert counts.min() >= 3
    assert batches == list(Batches(dataset, 16, 0, 0, bucket=2, per_speaker=4))
    assert batches != list(Batches(dataset, 16, 0, 1, bucket=2, per_speaker=4))


def test_running_values_come_to_those_of_the_data_and_then_stay() -> None:
    norm = RunningStandardise(3)
    data = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)) * 4 + torch.tensor([5.0, 0, -2])
    for step, batch in enumerate(data.split(40)):
        norm.share = 1 / (1 + step)
        norm(batch)
    assert torch.allclose(norm.mean, data.mean(dim=0), atol=1e-3)
    assert torch.allclose(norm.std, data.std(dim=0), rtol=0.02)
    norm.share = 0.0
    values = norm.mean.clone()
    assert torch.equal(norm(data), (data - values) / norm.std)
    norm.eval().share = 1.0
    norm(data + 100)
    assert torch.equal(norm.mean, values)


class Killed(Exception):
    """Raised where a test ends a training, as if the process were killed."""


def test_a_run_with_voices_resumes_to_equal_bytes(
    tmp_path: Path, manifest: Path, voice_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = fit_module.SaveEveryEpoch.on_train_epoch_end

    def stop_after_saving(self: fit_module.SaveEveryEpoch, trainer: object, module: object) -> None:
        save(self, trainer, module)  # type: ignore[arg-type]
        if "student" in str(self.folder):
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(fit_module.SaveEveryEpoch, "on_train_epoch_end", stop_after_saving)
        with pytest.raises(Killed):
            crossval(make.voice_recipe(manifest), tmp_path / "run")
    crossval(make.voice_recipe(manifest), tmp_path / "run")
    for name in ("predictions.csv", "predictions-dev.csv"):
        first, resumed = (folder / "fold-1" / name for folder in (voice_run, tmp_path / "run"))
        assert resumed.read_bytes() == first.read_bytes()


def test_frozen_layers_train_with_voices_from_a_probe(
    tmp_path: Path, manifest: Path, models: dict[str, Path]
) -> None:
    recipe = make.voice_recipe(
        manifest,
        student={"backbone": str(models["whisper"]), "frozen": 1, "pool": [0, 1], "probe": 0.5,
                 "optim": {"epochs": 2, "batch_size": 8, "mixup": 0.4}},
        voice={"crop_probability": 0.5, "crop_s": [0.2, 0.3]},
    )  # fmt: skip
    crossval(recipe, tmp_path / "run")
    log = (tmp_path / "run" / "fold-1" / "select" / "student" / "fit.json").read_text()
    assert "dev_ua_known" in log


def test_an_exported_model_with_voices_has_a_head_that_agrees_with_it(exported_voice: Path) -> None:
    card = read_card(exported_voice)
    assert card.voice_dim == 2 * 16
    model, head = (
        onnxruntime.InferenceSession(exported_voice / name) for name in ("model.onnx", "head.onnx")
    )
    voice = np.random.default_rng(0).standard_normal((1, card.voice_dim)).astype(np.float32)
    names = [item.name for item in head.get_outputs()]
    for scale in (0, 1):
        inputs = {"waveform": make.speech(1.0)[None], "voice": np.float32(scale) * voice}
        outputs = dict(zip([*names, "statistics"], model.run([*names, "statistics"], inputs), strict=True))
        again = head.run(names, {"statistics": outputs["statistics"], "voice": inputs["voice"]})
        for name, value in zip(names, again, strict=True):
            np.testing.assert_allclose(value, outputs[name], atol=1e-5)
    assert Recognizer(exported_voice).predict(make.speech(1.0), make.RATE).emotion in card.emotions


def test_voices_need_a_student_and_batches_of_whole_groups(manifest: Path) -> None:
    with pytest.raises(ConfigError, match="is for a student"):
        make.voice_recipe(manifest, student="none", protocol={"refit": False})
    with pytest.raises(ConfigError, match="not a multiple"):
        make.voice_recipe(manifest, voice={"utterances_per_speaker": 3})
    with pytest.raises(ConfigError, match="move_probability needs frozen layers"):
        make.voice_recipe(manifest, voice={"move_probability": 0.5})
    with pytest.raises(ConfigError, match="expected a range of seconds"):
        make.voice_recipe(manifest, voice={"crop_s": [3.0, 1.0]})
