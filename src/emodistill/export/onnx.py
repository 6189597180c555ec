"""Student -> ONNX: waveform in, probabilities and embeddings out, behind a parity gate.

The front-end is inside the graph. The gate runs the exported model and torch on real utterances of
0.3 to 20 s, alone and batched, and refuses a model whose probabilities differ by more than 1e-4. What
`precision` then makes of that graph has a gate of its own.
"""

import json
import logging
import tempfile
import tomllib
import warnings
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emodistill.audio.onnx_session import open_session
from emodistill.audio.waveform import SAMPLE_RATE, Waveform
from emodistill.config import TEACHERS, AudioConfig
from emodistill.console import say, warn
from emodistill.corpora import Corpus, Utterance
from emodistill.corpora.load import open_corpus
from emodistill.corpora.sources import data_sources
from emodistill.distillation import heads_in_use
from emodistill.errors import ConfigError, ModelError, one_of
from emodistill.evaluation.bootstrap import bootstrap_interval
from emodistill.evaluation.calibration import card_fields
from emodistill.evaluation.metrics import ACCURACIES
from emodistill.evaluation.predictions import Predictions, read_predictions
from emodistill.evaluation.run import read_run
from emodistill.export.quantize import CHECKED, check_half, check_integer, quantise, store_half
from emodistill.features.preparation import prepare_waveform
from emodistill.inference.model_card import METADATA, Card, file_sha256, write_card
from emodistill.labels import LabelSet
from emodistill.models.checkpoint import TRANSPOSED, describe_model, load_checkpoint
from emodistill.models.layers import CosineClassifier
from emodistill.models.student import FRAME_HEAD, Student

Precision = Literal["fp32", "fp16", "int8"]

TOLERANCE = 1e-4  # largest difference of a probability
NUM_UTTERANCES = 64  # at least, in the gate


class Exported(nn.Module):
    """What the ONNX graph computes: waveform (batch, samples), every row whole, no mask."""

    def __init__(self, student: Student, classifiers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.student = student
        self.classifiers = nn.ModuleDict(dict(classifiers))

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs, in order."""
        teachers = [name for name in self.student.heads if not name.endswith(FRAME_HEAD)]
        return [
            "probabilities",
            "embedding",
            *(f"embedding_{name}" for name in teachers),
            *(f"probabilities_{name}" for name in self.classifiers),
        ]

    def forward(self, waveform: Tensor) -> tuple[Tensor, ...]:
        """Probabilities (batch, emotions), embeddings (batch, dim), what each teacher would say."""
        output = self.student(waveform, None)
        return (
            output.logits.softmax(dim=1),
            output.embedding,
            *(F.normalize(value, dim=1) for value in output.projections.values()),
            *(
                classifier(output.projections[name]).softmax(dim=1)
                for name, classifier in self.classifiers.items()
            ),
        )


def export_run(
    run: Path,
    out: Path,
    fold: str | None = None,
    precision: Precision = "fp32",
    check: Corpus | None = None,
    texts: Mapping[str, str] | None = None,
) -> Card:
    """Export the student of a run's fold into a folder with `model.onnx`, `card.json` and `README.md`.

    `check` holds the labelled utterances that int8 is judged by; default: the fold's test utterances.
    `texts` are what a card says that no figure can: name, licence, limits, intended_use. Raises `ModelError`
    where the run is incomplete or a gate refuses, with the figures.
    """
    source = read_run(run)
    recipe = source.recipe
    if recipe.student is None:
        raise ModelError(
            f"'{run}' trained a {recipe.main_model} teacher alone (student = 'none'): there is no student to export"
        )
    fold = fold or source.scores["folds"][0]
    corpus, ids = open_corpus(recipe.corpus, lambda _: None), source.protocol.fold(fold)
    by_id = {utterance.id: utterance for utterance in corpus}
    splits = {split: [by_id[name] for name in ids.split(split)] for split in ("train", "dev", "test")}
    dev, test = (read_predictions(run / f"fold-{fold}" / f"predictions{split}.csv") for split in ("-dev", ""))
    return export_checkpoint(
        source.checkpoint_folder(fold),
        out,
        corpus,
        precision,
        check or Corpus(corpus.name, tuple(splits["test"])),
        recipe.audio,
        teachers={
            name: source.checkpoint_folder(fold, name)
            for name in TEACHERS
            if (source.checkpoint_folder(fold, name) / "model.json").is_file()
            and "embedding" in heads_in_use(recipe.distillation, name)
        },
        card={
            "name": recipe.name,
            "backbone": _short(recipe.student.backbone),
            "corpus": recipe.corpus.name,
            "data": data_sources(splits, recipe.corpus.name),
            "protocol": source.protocol.stamp,
            "fold": fold,
            "scores": {
                **_scored("test", test, splits["test"]),
                # After a refit dev is no longer held out, and its scores are of other weights.
                **({} if recipe.protocol.refit else _scored("dev", dev, splits["dev"])),
            },
            **card_fields(dev, test, recipe.protocol.refit),
            **(texts or {}),
        },
    )


TEXTS = ("name", "licence", "limits", "intended_use")  # of a card, that a person writes


def read_card_texts(path: Path) -> dict[str, str]:
    """The texts of a card from TOML; raises `ConfigError` for another key, or a value that is no text."""
    if not path.is_file():
        raise ConfigError(f"no texts '{path}': expected TOML with {', '.join(TEXTS)}")
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"'{path}' is not TOML: {error}") from error
    for name, text in found.items():
        if name not in TEXTS:
            raise ConfigError(f"'{path}': {one_of('text of a card', name, TEXTS)}")
        if not isinstance(text, str):
            raise ConfigError(f"'{path}': expected {name} to be a text, got {text!r}")
    return {name: " ".join(text.split()) for name, text in found.items()}


def _scored(split: str, table: Predictions, utterances: Sequence[Utterance]) -> dict[str, dict[str, float]]:
    """Scores with intervals of a split, and of each corpus in it where there are several."""
    corpora = {utterance.id: utterance.corpus for utterance in utterances}
    parts = {split: table}
    for corpus in sorted({name or "" for name in corpora.values()}) if len(set(corpora.values())) > 1 else ():
        parts[f"{corpus}/{split}"] = table.select([corpora[name] == corpus for name in table.utterances])
    found: dict[str, dict[str, float]] = {}
    for name, part in parts.items():
        found[name] = {"utterances": float(len(part)), "speakers": float(len(set(part.speakers)))}
        for measure, of in ACCURACIES.items():
            low, high = bootstrap_interval(part, lambda rows, of=of: of(rows.truth, rows.predicted))  # type: ignore[misc]
            value = of(part.truth, part.predicted)
            found[name] |= {measure: value, f"{measure}_low": low, f"{measure}_high": high}
        found[name]["macro_f1"] = part.scores().macro_f1
    return found


def export_checkpoint(
    folder: Path,
    out: Path,
    corpus: Corpus,
    precision: Precision = "fp32",
    check: Corpus | None = None,
    audio: AudioConfig | None = None,
    teachers: Mapping[str, Path] | None = None,
    card: Mapping[str, Any] | None = None,
) -> Card:
    """Export any student's checkpoint folder; no run is needed.

    Args:
        folder: the student's checkpoint.
        out: where `model.onnx`, `card.json` and `README.md` go; an earlier export in it is replaced.
        corpus: real utterances for the parity gate.
        precision: fp32; fp16, which is storage alone; int8, which also multiplies in integers.
        check: labelled, held-out utterances, at least 64, that int8 is judged by; default: `corpus`.
        audio: how the student's recordings were prepared; default: `AudioConfig()`.
        teachers: checkpoint folders of its teachers, whose classifiers then judge the student's heads. That of
            an acoustic one cannot: it judges an embedding by its length too, and a head learns the direction.
        card: what the card should say that the weights do not (name, corpus, protocol, fold, scores, …).

    Raises `ModelError` where a gate refuses, with the figures; then nothing is left in `out`.
    """
    found = load_checkpoint(folder)
    if not isinstance(found.model, Student):
        raise ModelError(f"'{folder}' holds a {type(found.model).__name__}, expected a student")
    audio, check = audio or AudioConfig(), check or corpus
    heads = [name for name in TEACHERS if name in found.model.heads]
    folders = {name: path for name, path in (teachers or {}).items() if name in heads}
    frozen: dict[str, Any] = {name: load_checkpoint(path).model.classifier for name, path in folders.items()}
    classifiers = {name: head for name, head in frozen.items() if isinstance(head, CosineClassifier)}
    exported = Exported(found.model, classifiers).eval()
    out.mkdir(parents=True, exist_ok=True)
    for name in ("model.onnx", "card.json", "README.md"):  # of an earlier export
        (out / name).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".partial-") as partial:
        whole = Path(partial) / "fp32.onnx"
        write_onnx(
            exported,
            whole,
            describe_model(found.model, found.labels, found.training_ids, found.info.get("dev_ids", ())),
        )
        waveforms = gate_waveforms(corpus, {utterance.id for utterance in check}, audio.max_s)
        parity = check_parity(exported, whole, waveforms)
        exact = {name for name, _ in exported.named_buffers()}  # the front-end's, not learned
        if precision == "fp32":
            made, figures = whole, {}
        elif precision == "fp16":
            made = whole.with_name("fp16.onnx")
            store_half(whole, made, exact)
            figures = check_half(whole, made, waveforms)
        else:
            made, figures = _to_int8(whole, exact, *_labelled(check, found.labels, audio))
        made.replace(out / "model.onnx")
    made_card = Card(
        **{
            "name": folder.name,
            "backbone": found.model.backbone.model_type,
            "corpus": corpus.name,
            "protocol": "",
            "fold": "",
            "scores": {},
            **(card or {}),
            "emotions": found.labels.names,
            "trim_db": audio.trim_db,
            "sha256": file_sha256(out / "model.onnx"),
            "precision": precision,
            "quantisation": figures,
            "teachers": tuple(heads),
            "num_parameters": sum(value.numel() for value in found.model.parameters()),
            "parity": parity,
            "versions": {
                name: version(name) for name in ("emodistill", "torch", "transformers", "onnx", "onnxruntime")
            },
        }
    )
    write_card(made_card, out)
    return made_card


def _to_int8(
    whole: Path, exact: Collection[str], waveforms: Sequence[Waveform], labels: Sequence[int]
) -> tuple[Path, dict[str, float]]:
    """Quantise convolutions too where the gate lets that pass, else matrix products alone."""
    made = whole.with_name("int8.onnx")
    num_convolutions = quantise(whole, made, exact)
    try:
        figures = check_integer(whole, made, waveforms, labels)
    except ModelError as error:
        if not num_convolutions or len(waveforms) < CHECKED:
            raise
        say(f"trying again with {num_convolutions} convolutions left in fp32: {str(error).partition(';')[0]}")
        num_convolutions = 0
        quantise(whole, made, exact, convolutions=False)
        figures = check_integer(whole, made, waveforms, labels)
    if figures["speed_ratio"] < 1:
        warn(
            f"int8 is slower than fp32 here: {figures['int8_ms_per_s']:.2f} against "
            f"{figures['fp32_ms_per_s']:.2f} ms for a second of audio on one thread"
        )
    return made, {**figures, "convolutions": float(num_convolutions)}


def _labelled(check: Corpus, labels: LabelSet, audio: AudioConfig) -> tuple[list[Waveform], list[int]]:
    """The waveforms that the model would hear, and their labels, of utterances with an emotion that it knows."""
    known = [item for item in check if item.path is not None and item.emotion in labels.names]
    if len(known) < len(check):
        warn(f"int8 is judged without {len(check) - len(known)} utterances: no audio, or an unknown emotion")
    return [prepare_waveform(item, audio) for item in known], [
        labels.index(str(item.emotion)) for item in known
    ]


def write_onnx(model: Exported, path: Path, description: Mapping[str, Any] | None = None) -> None:
    """Write the graph, weights inside, batch and length dynamic.

    With a description (`models.checkpoint.describe_model`) the student can be read back and trained further.
    """
    example = torch.linspace(-1, 1, SAMPLE_RATE)[None].repeat(2, 1)
    shape = {0: torch.export.Dim("batch", min=1, max=1024), 1: torch.export.Dim.AUTO}
    advice = logging.getLogger(
        "torch.onnx._internal.exporter._registration"
    )  # "torchvision is not installed"
    level = advice.level
    advice.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations, none about the model
        program = torch.onnx.export(
            model,
            (example,),
            input_names=["waveform"],
            output_names=model.outputs,
            dynamic_shapes=(shape,),
            dynamo=True,
            verbose=False,
        )
    advice.setLevel(level)
    assert program is not None
    _name_transposed(program.model, model)
    if description is not None:
        program.model.metadata_props[METADATA] = json.dumps(description, ensure_ascii=False)
    for node in program.model.graph:
        node.metadata_props.clear()  # stack traces, with the folders of this machine
        for value in node.outputs:
            value.metadata_props.clear()
    for node in program.model.graph:  # the exporter may call an inner value `embedding` too (WavLM's is)
        for value in node.outputs:
            if value.name in model.outputs and not value.is_graph_output():
                value.name = f"inner_{value.name}"
    program.save(path, external_data=False)


def _name_transposed(exported: Any, model: nn.Module) -> None:
    """Give the weights that the exporter transposed, and so renamed, their names back, with `TRANSPOSED`."""
    by_shape: dict[tuple[int, ...], list[tuple[str, np.ndarray]]] = defaultdict(list)
    for name, value in model.state_dict().items():
        if value.ndim == 2:
            by_shape[tuple(value.T.shape)].append((name, value.T.numpy()))
    for weight in list(exported.graph.initializers.values()):
        array = weight.const_value.numpy() if weight.name.startswith("val_") else np.empty(())
        for name, value in by_shape[array.shape]:
            if np.array_equal(array, value) and f"{name}{TRANSPOSED}" not in exported.graph.initializers:
                weight.name = f"{name}{TRANSPOSED}"
                break


def gate_waveforms(corpus: Corpus, prefer: set[str], max_s: float) -> list[Waveform]:
    """Real utterances for the gate: at least 64, held-out ones first, cut or joined to span 0.3 to 20 s."""
    spoken = sorted((u for u in corpus if u.path is not None), key=lambda u: u.id not in prefer)
    whole = AudioConfig(trim_db=None, max_s=max_s)
    found = [prepare_waveform(utterance, whole) for utterance in spoken[:NUM_UTTERANCES]]
    found = [found[index % len(found)] for index in range(max(NUM_UTTERANCES, len(found)))]
    lengths_s = np.geomspace(0.3, min(20.0, max_s), 16)
    for index, length_s in enumerate(lengths_s):
        samples = round(length_s * SAMPLE_RATE)
        joined = np.concatenate(found[index:] + found[:index])
        found[index] = np.resize(joined, samples).astype(np.float32)
    return found


def _batches(waveforms: Sequence[Waveform]) -> Iterator[np.ndarray]:
    """Batches of equal length, cut from utterances that are long enough."""
    for samples in (SAMPLE_RATE // 2, SAMPLE_RATE, 3 * SAMPLE_RATE):
        long_enough = [waveform[:samples] for waveform in waveforms if len(waveform) >= samples]
        if long_enough:
            yield np.stack(long_enough[:16])


def _short(backbone: str) -> str:
    """A backbone as a card names it: hub ids as they are, folders without where they lay."""
    return Path(backbone).name if Path(backbone).is_absolute() else backbone


@torch.no_grad()
def check_parity(model: Exported, path: Path, waveforms: Sequence[Waveform]) -> dict[str, float]:
    """Compare ONNX Runtime with torch; returns the figures, raises `ModelError` beyond `TOLERANCE`."""
    session = open_session(path)

    def worst(batch: np.ndarray) -> float:
        said = session.run(None, {"waveform": batch})
        expected = [value.numpy() for value in model(torch.from_numpy(batch))]
        return float(np.max([np.abs(a - b).max() for a, b in zip(said, expected, strict=True)]))

    alone = float(np.max([worst(waveform[None]) for waveform in waveforms]))  # NaN, unlike with max(), stays
    batched = float(np.max([worst(batch) for batch in _batches(waveforms)]))
    figures = {
        "alone": alone,
        "batched": batched,
        "utterances": float(len({waveform.tobytes() for waveform in waveforms})),
        "tolerance": TOLERANCE,
    }
    if not (alone <= TOLERANCE and batched <= TOLERANCE):
        path.unlink()
        raise ModelError(
            f"the exported model differs from torch: {alone:.1e} alone, {batched:.1e} batched, over "
            f"{len(waveforms)} utterances; at most {TOLERANCE:.0e} is allowed. Nothing was exported."
        )
    return figures
