"""Measures what distillation costs in a training step, and what cached targets and cached frozen layers save.

    python benchmarks/training.py RAVDESS WHISPER_DIR [--utterances 48] [--rounds 5]

The script prints medians of paired ratios. Three kinds of step take turns, batch by batch, over the same
utterances:

* plain: fine-tunes the student on hard labels;
* distilled: also uses logits and embeddings of two teachers, read from disk;
* teachers inside: runs both teachers on every batch instead of reading their targets. These are eGeMAPS and
  the prosodic ResNet, and a text encoder of the size of BERT-base. Its weights are random, since speed does
  not depend on them.

Then it measures an epoch with two of three layers frozen, without and with the cached states of these layers.

With --words it measures instead what the linguistic teacher's terms cost, the word level included. The
student is Whisper with its upper half trained and four queries, as in the recipe `controlled`. Steps with all
terms and with hard labels alone take turns.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from emodistill.config import (
    AudioConfig,
    AugmentConfig,
    DistillationConfig,
    LinguisticConfig,
    ProsodicConfig,
    StudentConfig,
)
from emodistill.corpora import Utterance, read_corpus
from emodistill.distillation import HardLabels, Targets, WordTargets, distillation_loss, hard_label_loss
from emodistill.features.cache import ArrayCache
from emodistill.features.llds import extract_llds
from emodistill.features.preparation import prepare_waveform
from emodistill.models.backbones import load_backbone
from emodistill.models.linguistic import LinguisticTeacher, word_tokenizer
from emodistill.models.prosodic import ProsodicTeacher, make_planes
from emodistill.models.student import Student, Suffix, frame_head
from emodistill.training.batches import Batches
from emodistill.training.data import Batch, UtteranceDataset, WaveformSource, collate
from emodistill.training.stages import cache_states
from emodistill.training.targets import TeacherTargets, TeacherTargetSource

AUDIO = AudioConfig()
VIEWS = AugmentConfig()
CLASSES = 8
DIM = 128


def main() -> None:
    """Measure the steps and the frozen layers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path, help="folder of RAVDESS")
    parser.add_argument("backbone", type=str, help="folder of Whisper")
    parser.add_argument("--utterances", type=int, default=48, help="number of utterances")
    parser.add_argument("--rounds", type=int, default=5, help="number of epochs that are measured")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--words", action="store_true", help="measure the linguistic teacher's terms")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    corpus = read_corpus("ravdess", given.corpus).utterances
    utterances = list(corpus[:: max(1, len(corpus) // given.utterances)])
    if given.words:
        _words(utterances[: given.utterances], given.backbone, given.rounds)
        return
    with tempfile.TemporaryDirectory() as folder:
        _steps(utterances[: given.utterances], given.backbone, given.rounds, Path(folder))
        _prefix(utterances[: given.utterances], given.backbone, given.rounds, Path(folder))


def _steps(utterances: list[Utterance], backbone: str, rounds: int, folder: Path) -> None:
    """Print the ratios of the three kinds of step."""
    config = StudentConfig(backbone=backbone, layers=3)
    student = Student(
        load_backbone(backbone, 3), config, CLASSES, {"prosodic": DIM, "linguistic": DIM}
    ).train()
    prosodic = ProsodicTeacher(ProsodicConfig(), CLASSES).eval()
    words = [utterance.transcript or "" for utterance in utterances]
    bert = BertModel(BertConfig(), add_pooling_layer=False)
    linguistic = LinguisticTeacher(LinguisticConfig(), CLASSES, bert, word_tokenizer(words)).eval()
    distillation = DistillationConfig()
    untaught = Student(load_backbone(backbone, 3), config, CLASSES, {}).train()
    optimizers = {model: torch.optim.AdamW(model.parameters(), lr=1e-5) for model in (student, untaught)}
    source = WaveformSource(utterances, AUDIO, VIEWS, 0)
    labels = [index % CLASSES for index in range(len(utterances))]
    ids = tuple(utterance.id for utterance in utterances)
    tables = {}
    for name in ("prosodic", "linguistic"):
        targets = TeacherTargets(
            ids,
            torch.randn(len(ids), CLASSES),
            torch.randn(len(ids), DIM),
            torch.ones(len(ids), dtype=torch.bool),
        )
        targets.write(folder / f"{name}.safetensors", name, "in-sample")
        tables[name] = TeacherTargetSource(
            TeacherTargets.read(folder / f"{name}.safetensors", ids), range(len(ids)), VIEWS, 0
        )
    plain = UtteranceDataset(source, labels)
    taught = UtteranceDataset(source, labels, tables)

    def update(model: Student, batch: Batch, targets: dict[str, Targets]) -> None:
        optimizer = optimizers[model]
        output = model(batch.inputs, batch.lengths)
        if targets:
            loss = distillation_loss(output, HardLabels(batch.labels), targets, distillation)["loss"]
        else:
            loss = hard_label_loss(output.logits, batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def run_teachers(batch: Batch) -> dict[str, Targets]:
        chosen = [utterances[index] for index in batch.indices.tolist()]
        llds = [
            make_planes(extract_llds(prepare_waveform(u, AUDIO)), prosodic.mean.numpy(), prosodic.std.numpy())
            for u in chosen
        ]
        tokens = [linguistic.tokenize(utterance.transcript or "") for utterance in chosen]
        known = torch.ones(len(chosen), dtype=torch.bool)
        results = {}
        for name, model, inputs in (
            ("prosodic", prosodic, [torch.from_numpy(x) for x in llds]),
            ("linguistic", linguistic, tokens),
        ):
            padded = torch.nn.utils.rnn.pad_sequence(inputs, batch_first=True)
            output = model(padded, torch.tensor([len(item) for item in inputs]))
            results[name] = Targets(output.logits, output.embedding, known)
        return results

    def run(model: Student, dataset: UtteranceDataset, keys: list[tuple[int, int]], inside: bool) -> float:
        started = time.perf_counter()
        batch = collate([dataset[key] for key in keys])
        update(model, batch, run_teachers(batch) if inside else batch.targets)
        return time.perf_counter() - started

    plain_s: list[float] = []
    distilled_ratios: list[float] = []
    inside_ratios: list[float] = []
    for epoch in range(rounds + 1):
        for keys in Batches(plain, 16, 0, epoch):
            without_s = run(untaught, plain, keys, False)
            distilled_s, inside_s = run(student, taught, keys, False), run(student, taught, keys, True)
            if epoch:  # the first epoch warms up
                plain_s.append(without_s)
                distilled_ratios.append(distilled_s / without_s)
                inside_ratios.append(inside_s / distilled_s)
    print(f"student: first 3 layers of {Path(backbone).name}, all trained")
    print(f"batches of 16, {len(plain_s)} steps of each kind; medians, of paired ratios")
    print(f"plain step: {statistics.median(plain_s):.3f} s")
    print(f"distilled / plain: {statistics.median(distilled_ratios):.3f}")
    print(f"teachers inside the step / distilled: {statistics.median(inside_ratios):.2f}")


def _prefix(utterances: list[Utterance], backbone: str, rounds: int, folder: Path) -> None:
    """Print the ratio of an epoch without and with cached states of the frozen layers."""
    config = StudentConfig(backbone=backbone, layers=3, frozen=2)
    student = Student(load_backbone(backbone, 3), config, CLASSES, {}).train()
    labels = [index % CLASSES for index in range(len(utterances))]
    os.environ["EMODISTILL_CACHE"] = str(folder)
    started = time.perf_counter()
    cached = cache_states(student, utterances, AUDIO, VIEWS, 1, 0, torch.device("cpu"))
    filling = time.perf_counter() - started
    assert isinstance(cached.cache, ArrayCache)
    student.train()
    optimizer = torch.optim.AdamW([value for value in student.parameters() if value.requires_grad], lr=1e-5)

    def epoch(dataset: UtteranceDataset, forward: Callable[..., object], number: int) -> float:
        started = time.perf_counter()
        for keys in Batches(dataset, 16, 0, number):
            batch = collate([dataset[key] for key in keys])
            loss = hard_label_loss(forward(batch.inputs, batch.lengths).logits, batch.labels)  # type: ignore[attr-defined]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return time.perf_counter() - started

    plain = UtteranceDataset(WaveformSource(utterances, AUDIO, VIEWS, 0), labels)
    from_cache = UtteranceDataset(cached, labels)
    ratios = []
    for number in range(rounds + 1):
        without, with_cache = epoch(plain, student, number), epoch(from_cache, Suffix(student), number)
        if number:
            ratios.append(without / with_cache)
    print(f"2 of 3 layers frozen, {len(utterances)} utterances; filling the cache took {filling:.1f} s")
    print(f"epoch without cache / with: {statistics.median(ratios):.2f} (median of paired ratios)")


def _words(utterances: list[Utterance], backbone: str, rounds: int) -> None:
    """Print the ratio of a step with the linguistic teacher's terms to one without, in bf16."""
    pretrained = load_backbone(backbone, None)
    depth, size, width, per_utterance = pretrained.num_layers, 32, 384, 7
    config = StudentConfig(
        backbone=backbone,
        layers=depth,
        frozen=depth // 2,
        queries=4,
        pool=(depth // 3, 2 * depth // 3, depth),
    )
    heads = {"linguistic": DIM, frame_head("linguistic"): width}
    taught = Student(pretrained, config, CLASSES, heads).train()
    plain = Student(load_backbone(backbone, None), config, CLASSES, {}).train()
    distillation = DistillationConfig(teachers=("linguistic",), words=1.0, word_contrast=0.5)
    optimizers = {
        model: torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-5)
        for model in (taught, plain)
    }
    source = WaveformSource(utterances, AUDIO, VIEWS, 0)
    dataset = UtteranceDataset(source, [index % CLASSES for index in range(len(utterances))])
    edges = torch.linspace(0, 1, per_utterance + 1)
    spans = torch.stack([edges[:-1], edges[1:]], dim=1)

    def targets(rows: int) -> dict[str, Targets]:
        words = WordTargets(
            torch.randn(rows * per_utterance, width),
            torch.arange(rows).repeat_interleave(per_utterance),
            spans.repeat(rows, 1),
        )
        logits, embedding = torch.randn(rows, CLASSES), torch.randn(rows, DIM)
        return {"linguistic": Targets(logits, embedding, torch.ones(rows, dtype=torch.bool), words=words)}

    def step(model: Student, states: Tensor, lengths: Tensor, labels: Tensor) -> float:
        given = targets(len(labels)) if model is taught else {}
        started = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model.suffix(states, lengths)
        output = output.float32()
        if given:
            loss = distillation_loss(output, HardLabels(labels), given, distillation)["loss"]
        else:
            loss = hard_label_loss(output.logits, labels)
        optimizers[model].zero_grad()
        loss.backward()
        optimizers[model].step()
        return time.perf_counter() - started

    ratios: list[float] = []
    for epoch in range(rounds + 1):
        for keys in Batches(dataset, size, 0, epoch):
            batch = collate([dataset[key] for key in keys])
            with torch.no_grad():
                states, lengths = plain.prefix(batch.inputs, batch.lengths)
            assert lengths is not None
            without, with_terms = (step(model, states, lengths, batch.labels) for model in (plain, taught))
            if epoch:  # the first epoch warms up
                ratios.append(with_terms / without)
    print(f"{Path(backbone).name}, layers {depth // 2 + 1} to {depth} trained, batches of {size}, bf16")
    print(
        f"step with the linguistic teacher's terms / without: {statistics.median(ratios):.3f} "
        f"(median of {len(ratios)} paired ratios)"
    )


if __name__ == "__main__":
    main()
