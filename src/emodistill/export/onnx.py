"""A student as an ONNX graph: waveform in, probabilities, dimensions and embeddings out.

The front-end is inside the graph. A student with voices has a second graph, of its head alone, so that the
trunk runs once where a voice is learned from the recording itself. A parity gate runs the graphs and the
torch model on real utterances of 0.3 to 20 s, alone and batched. It refuses a graph with an output that
differs by more than 1e-4.
"""

import json
import logging
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emodistill.audio.onnx_session import open_session
from emodistill.audio.waveform import SAMPLE_RATE, Waveform
from emodistill.corpora import Corpus
from emodistill.errors import ModelError
from emodistill.features.preparation import read_waveform
from emodistill.inference.model_card import METADATA
from emodistill.models.checkpoint import TRANSPOSED
from emodistill.models.layers import FrameQueries, Output
from emodistill.models.student import FRAME_HEAD, Student

TOLERANCE = 1e-4  # largest difference of an output
NUM_UTTERANCES = 64  # at least, in the gate


class OnnxStudent(nn.Module):
    """The module that becomes the ONNX graph: a student, and classifiers of teachers on its heads.

    Each row of its waveforms (batch, samples) is a whole utterance, so there is no mask. A student with
    voices also takes `voice` (batch, dim), which is zero where nothing is known, and returns `statistics`.
    """

    def __init__(self, student: Student, classifiers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.student = student
        self.classifiers = nn.ModuleDict(dict(classifiers))

    @property
    def inputs(self) -> list[str]:
        """Names of the inputs, in order."""
        return ["waveform", "voice"] if self.student.has_voices else ["waveform"]

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs, in order."""
        teachers = [name for name in self.student.heads if not name.endswith(FRAME_HEAD)]
        return [
            *(["probabilities"] if self._has_emotions else []),
            "embedding",
            *(f"embedding_{name}" for name in teachers),
            *(f"probabilities_{name}" for name in self.classifiers),
            *(["dimensions"] if self.student.dimensions else []),
            *(["statistics"] if self.student.has_voices else []),
        ]

    def forward(self, waveform: Tensor, voice: Tensor | None = None) -> tuple[Tensor, ...]:
        """Probabilities (batch, emotions), embeddings (batch, dim) and dimensions (batch, dimensions).

        They come in the order of `outputs`. Dimensions are clamped to 0 … 1.
        """
        output = self.student(waveform, None, voice)
        results = self._results(output)
        return (*results, output.statistics) if self.student.has_voices else results

    def _results(self, output: Output) -> tuple[Tensor, ...]:
        return (
            *([output.logits.softmax(dim=1)] if self._has_emotions else []),
            output.embedding,
            *(F.normalize(value, dim=1) for value in output.projections.values()),
            *(
                classifier(output.projections[name]).softmax(dim=1)
                for name, classifier in self.classifiers.items()
            ),
            *([] if output.dimensions is None else [output.dimensions.clamp(0, 1)]),
        )

    @property
    def _has_emotions(self) -> bool:
        return self.student.classifier.out_features > 0


class OnnxHead(nn.Module):
    """The part of an `OnnxStudent` after the statistics, for a voice that is known later than they are."""

    inputs = ("statistics", "voice")

    def __init__(self, model: OnnxStudent) -> None:
        super().__init__()
        self.model = model

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs, in order."""
        return self.model.outputs[:-1]

    def forward(self, statistics: Tensor, voice: Tensor) -> tuple[Tensor, ...]:
        """Results for statistics (batch, dim) and voices (batch, dim), in the order of `outputs`."""
        return self.model._results(self.model.student.head(statistics - voice))


def write_onnx(model: OnnxStudent, path: Path, description: Mapping[str, Any] | None = None) -> None:
    """Write the graph with its weights in one file. Batch size and length are dynamic.

    With a description (`models.checkpoint.describe_model`) the student can be read back and trained further.
    """
    dim = model.student.embed.in_features
    examples: tuple[Tensor, ...] = (torch.linspace(-1, 1, SAMPLE_RATE)[None].repeat(2, 1),)
    if model.student.has_voices:
        examples += (torch.linspace(-0.5, 0.5, 2 * dim).view(2, dim),)
    batch = torch.export.Dim("batch", min=1, max=1024)
    shapes = ({0: batch, 1: torch.export.Dim.AUTO}, {0: batch})[: len(examples)]
    _write_graph(model, path, examples, shapes, model.inputs, model.outputs, description)


def write_head(model: OnnxStudent, path: Path) -> None:
    """Write the graph of the head, an `OnnxHead`, of a student with voices. The batch size is dynamic."""
    head = OnnxHead(model).eval()
    dim = model.student.embed.in_features
    batch = torch.export.Dim("batch", min=1, max=1024)
    examples = (torch.linspace(-1, 1, 2 * dim).view(2, dim), torch.linspace(1, -1, 2 * dim).view(2, dim))
    _write_graph(head, path, examples, ({0: batch}, {0: batch}), head.inputs, head.outputs, None)


def _write_graph(
    model: nn.Module,
    path: Path,
    examples: tuple[Tensor, ...],
    shapes: tuple[Any, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    description: Mapping[str, Any] | None,
) -> None:
    # It warns that torchvision is not installed, which no student needs.
    exporter_log = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = exporter_log.level
    exporter_log.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the exporter
        program = torch.onnx.export(
            model,
            examples,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=shapes,
            dynamo=True,
            verbose=False,
        )
    exporter_log.setLevel(level)
    assert program is not None
    _name_transposed(program.model, model)
    if description is not None:
        program.model.metadata_props[METADATA] = json.dumps(description, ensure_ascii=False)
    for node in program.model.graph:
        node.metadata_props.clear()  # stack traces, which name folders of this machine
        for value in node.outputs:
            value.metadata_props.clear()
    for node in program.model.graph:  # an inner value may have the name of an output (WavLM: `embedding`)
        for value in node.outputs:
            if value.name in outputs and not value.is_graph_output():
                value.name = f"inner_{value.name}"
    program.save(path, external_data=False)


def _name_transposed(exported: Any, model: nn.Module) -> None:
    """Rename weights that the exporter transposed: their own name with `TRANSPOSED` instead of `val_…`.

    The exporter also splits learned queries by head, which swaps their first two axes.
    """
    by_shape: dict[tuple[int, ...], list[tuple[str, np.ndarray]]] = defaultdict(list)
    for name, value in model.state_dict().items():
        if value.ndim == 2:
            by_shape[tuple(value.T.shape)].append((name, value.T.numpy()))
    for name, module in model.named_modules():
        if isinstance(module, FrameQueries):
            by_head = module.by_head().detach().numpy()
            by_shape[by_head.shape].append((f"{name}.queries", by_head))
    for weight in list(exported.graph.initializers.values()):
        is_folded = weight.name.startswith(("val_", "transpose_"))
        array = weight.const_value.numpy() if is_folded else np.empty(())
        for name, value in by_shape[array.shape]:
            if np.array_equal(array, value) and f"{name}{TRANSPOSED}" not in exported.graph.initializers:
                weight.name = f"{name}{TRANSPOSED}"
                break


def parity_waveforms(corpus: Corpus, preferred: set[str], max_s: float) -> list[Waveform]:
    """Real utterances for the gate: at least 64, of 0.3 to 20 s.

    Those with an id in `preferred` come first. The first 16 are cut, or joined with others, to the lengths
    that cover the range. A small corpus is repeated.
    """
    spoken = sorted(
        (item for item in corpus if item.path is not None), key=lambda item: item.id not in preferred
    )
    num_samples = round(max_s * SAMPLE_RATE)
    waveforms = [read_waveform(utterance)[:num_samples] for utterance in spoken[:NUM_UTTERANCES]]
    waveforms = [waveforms[index % len(waveforms)] for index in range(max(NUM_UTTERANCES, len(waveforms)))]
    lengths_s = np.geomspace(0.3, min(20.0, max_s), 16)
    for index, length_s in enumerate(lengths_s):
        joined = np.concatenate(waveforms[index:] + waveforms[:index])
        waveforms[index] = np.resize(joined, round(length_s * SAMPLE_RATE)).astype(np.float32)
    return waveforms


def _batches(waveforms: Sequence[Waveform]) -> Iterator[np.ndarray]:
    """Batches of 0.5, 1 and 3 s, cut from the utterances that are long enough."""
    for samples in (SAMPLE_RATE // 2, SAMPLE_RATE, 3 * SAMPLE_RATE):
        long_enough = [waveform[:samples] for waveform in waveforms if len(waveform) >= samples]
        if long_enough:
            yield np.stack(long_enough[:16])


def _some_voice(graph_input: Any, batch: int) -> np.ndarray:
    """A voice (batch, dim) that is not zero, for the input `voice` of a graph."""
    dim = graph_input.shape[1]
    return np.linspace(-0.5, 0.5, batch * dim, dtype=np.float32).reshape(batch, dim)


@torch.no_grad()
def check_parity(
    model: nn.Module, path: Path, waveforms: Sequence[Waveform], head: Path | None = None
) -> dict[str, float]:
    """Compare ONNX Runtime with torch; returns the figures for the card.

    A student with voices is run without a voice and with one, and so is its head on the statistics of the
    graph. Raises `ModelError` where an output differs by more than `TOLERANCE` or is NaN. Then `path` and
    `head` are deleted.
    """
    session = open_session(path)
    names = [item.name for item in session.get_inputs()]
    head_session = None if head is None else open_session(head)

    def largest_difference(batch: np.ndarray) -> float:
        differences = []
        for scale in (0.0, 1.0) if "voice" in names else (1.0,):
            inputs = [batch, *(scale * _some_voice(item, len(batch)) for item in session.get_inputs()[1:])]
            outputs = session.run(None, dict(zip(names, inputs, strict=True)))
            expected = [value.numpy() for value in model(*map(torch.from_numpy, inputs))]
            differences += [np.abs(a - b).max() for a, b in zip(outputs, expected, strict=True)]
            if head_session is not None:
                results = head_session.run(None, {"statistics": outputs[-1], "voice": inputs[1]})
                differences += [np.abs(a - b).max() for a, b in zip(results, expected[:-1], strict=True)]
        return float(np.max(differences))

    # np.max returns NaN where there is one; max() may not.
    alone = float(np.max([largest_difference(waveform[None]) for waveform in waveforms]))
    batched = float(np.max([largest_difference(batch) for batch in _batches(waveforms)]))
    figures = {
        "alone": alone,
        "batched": batched,
        "utterances": float(len({waveform.tobytes() for waveform in waveforms})),
        "tolerance": TOLERANCE,
    }
    if not (alone <= TOLERANCE and batched <= TOLERANCE):
        for file in filter(None, (path, head)):
            file.unlink()
        raise ModelError(
            f"the exported model differs from torch by {alone:.1e} alone and {batched:.1e} batched, over "
            f"{len(waveforms)} utterances; at most {TOLERANCE:.0e} is allowed. Nothing was exported."
        )
    return figures
