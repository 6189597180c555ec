"""An exported graph in fewer bits, each behind its gate: weights stored in half precision, or multiplications
in 8-bit integers.

Both read a float32 graph and write another with the same inputs and outputs, of standard ONNX operators
alone. The gates compare the two on real utterances and raise where the second says something else.
"""

import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import NodeProto, TensorProto, helper, numpy_helper

from emodistill.audio.onnx_session import open_session
from emodistill.audio.waveform import MIN_INPUT_SAMPLES, SAMPLE_RATE, Waveform
from emodistill.errors import ModelError
from emodistill.evaluation.metrics import Labels, unweighted_accuracy

HALF_TOLERANCE = 1e-2  # largest difference of a probability after float16 storage
UA_LOSS = 0.01  # the most that int8 may lose, as a share
AGREEMENT = 0.98  # the least share of utterances that int8 must give the same emotion
CHECKED = 64  # utterances at least, for int8
ELEMENTWISE = ("Gelu", "Relu", "Tanh")  # what may stand between two convolutions, in either layout


def store_half(source: Path, out: Path, exact: Collection[str] = ()) -> None:
    """Store the weights of the graph `source` in float16; the arithmetic stays float32.

    Every matrix becomes a float16 constant of its name and a Cast, which ONNX Runtime folds when it loads the
    graph. Vectors, the constants named in `exact`, and matrices that float16 cannot hold stay as they are.
    """
    model = onnx.load(source)
    casts: dict[str, NodeProto] = {}
    for constant in model.graph.initializer:
        name = constant.name
        if constant.data_type != TensorProto.FLOAT or len(constant.dims) < 2 or name in exact:
            continue
        values = numpy_helper.to_array(constant)
        if np.abs(values).max(initial=0.0) > np.finfo(np.float16).max:
            continue
        constant.CopyFrom(numpy_helper.from_array(values.astype(np.float16), name))
        casts[name] = helper.make_node("Cast", [name], [f"{name}_float"], to=TensorProto.FLOAT)
    for node in model.graph.node:
        _replace(node.input, [f"{name}_float" if name in casts else name for name in node.input])
    nodes = [*casts.values(), *model.graph.node]
    _replace(model.graph.node, nodes)
    _save(model, out)


def quantise(source: Path, out: Path, exact: Collection[str] = (), convolutions: bool = True) -> int:
    """Multiply in 8-bit integers: the MatMuls of the graph `source` with a weight and, where asked, the
    dense 1-D convolutions over several channels.

    Weights become int8, symmetric, with a scale for each output; what they are multiplied with becomes
    uint8 when the model runs, with one scale and zero point for the whole tensor (dynamic quantisation).
    Gemm, which is what a head gives one row an utterance to, and weights named in `exact` stay float32.
    Returns how many convolutions were quantised.
    """
    model = onnx.load(source)
    graph = model.graph
    made = _IntegerGraph([item for item in graph.initializer if item.name not in exact])
    for node in graph.node:
        if node.op_type == "MatMul" and made.holds(node.input[1], ndim=2):
            made.matmul(node)
        elif convolutions and node.op_type == "Conv" and made.holds(node.input[1], ndim=3) and _dense(node):
            made.convolution(node)
        else:
            made.keep(node)
    for output in graph.output:
        made.channels_first(output.name)
    used = {name for node in made.nodes for name in node.input}
    constants = [item for item in [*graph.initializer, *made.constants] if item.name in used]
    _replace(graph.node, made.nodes)
    _replace(graph.initializer, constants)
    _save(model, out)
    return made.num_convolutions


def check_half(reference: Path, path: Path, waveforms: Sequence[Waveform]) -> dict[str, float]:
    """Compare a graph of stored halves with the float32 one; the figures for its card.

    Raises `ModelError` where a probability moves by over 1e-2, or an utterance gets another emotion.
    """
    sessions = [open_session(reference, threads=1), open_session(path, threads=1)]
    said = np.array([[_probabilities(session, wave) for session in sessions] for wave in waveforms])
    difference = float(np.abs(said[:, 0] - said[:, 1]).max())
    agreement = float(np.mean(said[:, 0].argmax(axis=1) == said[:, 1].argmax(axis=1)))
    if not (difference <= HALF_TOLERANCE and agreement == 1):
        raise ModelError(
            f"with weights stored in fp16 a probability moves by {difference:.1e} and {agreement:.1%} of "
            f"{len(waveforms)} utterances get the same emotion; at most {HALF_TOLERANCE:.0e}, and all of them, is "
            "allowed. Nothing was exported: take --precision fp32."
        )
    return {"difference": difference, "agreement": agreement, "utterances": float(len(waveforms))}


def check_integer(
    reference: Path, path: Path, waveforms: Sequence[Waveform], labels: Labels
) -> dict[str, float]:
    """Compare an int8 graph with the float32 one on labelled utterances, one at a time, side by side.

    Returns the figures for its card: agreement, UA of both, and milliseconds on one thread for a second of
    audio. Raises `ModelError` where int8 costs more than a point of UA, fewer than 98 % of the utterances
    keep their emotion, or there are fewer than 64 of them.
    """
    if len(waveforms) < CHECKED:
        raise ModelError(
            f"int8 is checked on at least {CHECKED} labelled, held-out utterances, got {len(waveforms)}: name a "
            "manifest with more (--check utterances.csv), or take --precision fp16. Nothing was exported."
        )
    names = ("fp32", "int8")
    sessions = [open_session(reference, threads=1), open_session(path, threads=1)]
    seconds = np.zeros(2)
    said = np.zeros((len(waveforms), 2), dtype=np.int64)
    for session in sessions:
        _probabilities(session, waveforms[0])  # the first run of a session is slower
    for row, wave in enumerate(waveforms):
        for column, session in enumerate(sessions):
            started = time.perf_counter()
            said[row, column] = _probabilities(session, wave).argmax()
            seconds[column] += time.perf_counter() - started
    ua = [unweighted_accuracy(labels, said[:, column]) for column in range(2)]
    agreement = float(np.mean(said[:, 0] == said[:, 1]))
    per_second = 1000 * seconds / (sum(map(len, waveforms)) / SAMPLE_RATE)
    if not (ua[0] - ua[1] <= UA_LOSS and agreement >= AGREEMENT):
        raise ModelError(
            f"int8 changes UA from {100 * ua[0]:.2f} to {100 * ua[1]:.2f} and gives {agreement:.1%} of {len(said)} "
            f"utterances the same emotion; at most {100 * UA_LOSS:.1f} points less and at least {AGREEMENT:.0%} "
            "are allowed. Nothing was exported: take --precision fp16."
        )
    return {
        "agreement": agreement,
        "utterances": float(len(said)),
        **{f"ua_{name}": value for name, value in zip(names, ua, strict=True)},
        **{f"{name}_ms_per_s": float(value) for name, value in zip(names, per_second, strict=True)},
        "speed_ratio": float(seconds[0] / seconds[1]),
    }


def _probabilities(session: onnxruntime.InferenceSession, waveform: Waveform) -> npt.NDArray[np.float32]:
    padded = np.pad(waveform, (0, max(0, MIN_INPUT_SAMPLES - len(waveform))))[None]
    return np.asarray(session.run(["probabilities"], {"waveform": padded})[0][0])


class _IntegerGraph:
    """A graph built anew node by node, some of them in integers.

    A convolution is a product of unfolded rows, so it works on (batch, frames, channels): `rows` knows
    that form of a tensor by its name, and the (batch, channels, frames) form is made only if asked for.
    """

    def __init__(self, weights: Sequence[TensorProto]) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.rows: dict[str, str] = {}
        self.num_convolutions = 0
        self._weights = {item.name: item for item in weights if item.data_type == TensorProto.FLOAT}
        self._codes: dict[str, tuple[str, str, str]] = {}
        self._packed: dict[str, tuple[str, str, str]] = {}
        self._pending: set[str] = set()  # exist as rows alone so far

    def holds(self, name: str, ndim: int) -> bool:
        """Whether this is a weight that may be quantised."""
        found = self._weights.get(name)
        # One channel in: the waveform itself, whose range no 8 bits hold.
        return found is not None and len(found.dims) == ndim and (ndim == 2 or found.dims[1] > 1)

    def keep(self, node: NodeProto) -> None:
        """Take a node over, on rows where that saves a transposition."""
        first, output = node.input[0] if node.input else "", node.output[0]
        if first in self.rows and node.op_type in ELEMENTWISE:
            moved = NodeProto()
            moved.CopyFrom(node)
            moved.input[0], moved.output[0] = self.rows[first], f"{output}_rows"
            self.nodes.append(moved)
            self._register(output, f"{output}_rows")
        elif first in self.rows and node.op_type == "Transpose" and _attribute(node, "perm") == [0, 2, 1]:
            self._add("Identity", [self.rows[first]], output)
        else:
            for name in node.input:
                self.channels_first(name)
            self.nodes.append(node)

    def matmul(self, node: NodeProto) -> None:
        """x (…, in) @ weight (in, out)."""
        self.channels_first(node.input[0])
        weight = self._weights[node.input[1]]
        packed = self._pack(weight.name, numpy_helper.to_array(weight))
        self._product(self._quantised(node.input[0]), packed, node.output[0])

    def convolution(self, node: NodeProto) -> None:
        """Unfold the rows of x (batch, frames, in) into (batch, frames out, kernel * in), and multiply."""
        self.num_convolutions += 1
        source, output = node.input[0], node.output[0]
        kernel = numpy_helper.to_array(self._weights[node.input[1]])  # (out, in, kernel)
        taps = kernel.shape[2]
        (stride,) = _attribute(node, "strides", [1])
        before, after = _attribute(node, "pads", [0, 0])
        if source not in self.rows:
            self._add("Transpose", [source], f"{source}_rows", perm=[0, 2, 1])
            self.rows[source] = f"{source}_rows"
        rows = self.rows[source]
        if before or after:
            pads = self._constant(f"{output}_pads", np.array([0, before, 0, 0, after, 0]))
            rows = self._add("Pad", [rows, pads], f"{output}_padded")
        codes, scale, zero = self._quantised(rows)
        shifted = []
        for tap in range(taps):  # every tap sees as many rows as there are frames out
            behind = taps - 1 - tap
            ends = -behind if behind else np.iinfo(np.int64).max
            bounds = [
                self._constant(f"{output}_tap{tap}_{what}", np.array([value]))
                for what, value in (("starts", tap), ("ends", ends), ("axes", 1), ("steps", stride))
            ]
            shifted.append(self._add("Slice", [codes, *bounds], f"{output}_tap{tap}"))
        unfolded = self._add("Concat", shifted, f"{output}_unfolded", axis=2) if taps > 1 else shifted[0]
        packed = self._pack(node.input[1], kernel.transpose(2, 1, 0).reshape(-1, kernel.shape[0]))
        biased = len(node.input) > 2 and bool(node.input[2])
        name = f"{output}_product" if biased else f"{output}_rows"
        self._product((unfolded, scale, zero), packed, name)
        if biased:
            self._add("Add", [name, node.input[2]], f"{output}_rows")
        self._register(output, f"{output}_rows")

    def channels_first(self, name: str) -> None:
        """Make (batch, channels, frames) of a tensor that so far exists as rows alone."""
        if name in self._pending:
            self._pending.remove(name)
            self._add("Transpose", [self.rows[name]], name, perm=[0, 2, 1])

    def _register(self, name: str, rows: str) -> None:
        self.rows[name] = rows
        self._pending.add(name)

    def _quantised(self, name: str) -> tuple[str, str, str]:
        """A tensor's codes, scale and zero point; computed once, whoever uses it."""
        if name not in self._codes:
            outputs = (f"{name}_codes", f"{name}_scale", f"{name}_zero")
            self.nodes.append(helper.make_node("DynamicQuantizeLinear", [name], outputs))
            self._codes[name] = outputs
        return self._codes[name]

    def _pack(self, name: str, weight: npt.NDArray[np.float32]) -> tuple[str, str, str]:
        """The constants of a weight (in, out): int8 codes, their scales and zero points (out,)."""
        if name not in self._packed:
            scale = np.abs(weight).max(axis=0) / 127
            scale[scale == 0] = 1
            codes = np.rint(weight / scale).astype(np.int8)
            self._packed[name] = (
                self._constant(f"{name}_codes", codes),
                self._constant(f"{name}_scale", scale.astype(np.float32)),
                self._constant(f"{name}_zero", np.zeros(len(scale), np.int8)),
            )
        return self._packed[name]

    def _product(self, x: tuple[str, str, str], weight: tuple[str, str, str], output: str) -> None:
        """The product as ONNX Runtime knows it: it runs these four operators as one."""
        codes, scale, zero = x
        whole = self._add("MatMulInteger", [codes, weight[0], zero, weight[2]], f"{output}_integer")
        real = self._add("Cast", [whole], f"{output}_real", to=TensorProto.FLOAT)
        step = self._add("Mul", [scale, weight[1]], f"{output}_step")
        self._add("Mul", [real, step], output)

    def _add(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def _constant(self, name: str, value: npt.NDArray[Any]) -> str:
        self.constants.append(numpy_helper.from_array(value, name))
        return name


def _dense(convolution: NodeProto) -> bool:
    """Whether every channel out sees every channel in, without gaps, and the padding is spelled out."""
    return (
        _attribute(convolution, "group", 1) == 1
        and set(_attribute(convolution, "dilations", [1])) == {1}
        and _attribute(convolution, "auto_pad", b"NOTSET") == b"NOTSET"
    )


def _attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    found = [helper.get_attribute_value(item) for item in node.attribute if item.name == name]
    return found[0] if found else default


def _replace(field: Any, items: Sequence[Any]) -> None:
    del field[:]
    field.extend(items)


def _save(model: onnx.ModelProto, out: Path) -> None:
    del model.graph.value_info[:]  # the shapes and types of values that may be gone
    onnx.save(model, out)
