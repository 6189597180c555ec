"""An exported graph in fewer bits: weights stored as float16, or products in 8-bit integers. Each has a gate.

Both read a float32 graph and write another with the same inputs and outputs, of standard ONNX operators
alone. The gates compare the two graphs on real utterances and raise where they differ too much.

Why int8 is not made by `onnxruntime.quantization.quantize_dynamic`: that function turns convolutions into
`ConvInteger`, which is slower than float32, or leaves them in float32. Here a convolution becomes a product
of unfolded rows, which runs as fast as other integer products. On one thread this made HuBERT-base 2.8 times
as fast as fp32, against 1.7 times by the library. A student over Whisper-tiny became 2.3 times as fast
against 2.1, and the bundled student 1.8 against 1.7. Files were up to 9 % smaller, and as many utterances
kept their emotion. The figures are in `docs/results.md`, made by `benchmarks/int8.py`.
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
from emodistill.inference.fetch import quantise_columns

FP16_TOLERANCE = 1e-2  # largest difference of a probability or a dimension
MAX_DIMENSION_RMSE = 0.02  # root mean square difference of a dimension in int8, which goes from 0 to 1
PREDICTIONS = ("probabilities", "dimensions")  # the outputs that the gates compare
MAX_UA_LOSS = 0.01  # of int8, as a share
MIN_AGREEMENT = 0.98  # share of utterances that keep their emotion in int8
MIN_CHECKED = 64  # utterances on which int8 is checked
ELEMENTWISE = ("Gelu", "Relu", "Tanh")  # they give the same values in either layout of a tensor


def store_in_fp16(source: Path, out: Path, exact: Collection[str] = ()) -> None:
    """Store the weights of the graph `source` as float16. The arithmetic stays float32.

    Every matrix becomes a float16 constant with a Cast, which ONNX Runtime evaluates once when it loads the
    graph. Vectors, the constants named in `exact`, and matrices with values beyond the range of float16 stay
    float32.
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


def quantise_to_int8(source: Path, out: Path, exact: Collection[str] = (), convolutions: bool = True) -> int:
    """Multiply in 8-bit integers; returns how many convolutions were quantised.

    Quantised are the MatMuls of the graph `source` with a weight, and with `convolutions` also its dense 1-D
    convolutions over several channels. Weights become int8, symmetric, with a scale for each output. Inputs
    become uint8 at run time, with one scale and zero point for the whole tensor (dynamic quantisation). Gemm
    (one row per utterance in the heads) and weights named in `exact` stay float32.
    """
    model = onnx.load(source)
    graph = model.graph
    integer = _IntegerGraph([item for item in graph.initializer if item.name not in exact])
    for node in graph.node:
        if node.op_type == "MatMul" and integer.can_quantise(node.input[1], ndim=2):
            integer.add_matmul(node)
        elif (
            convolutions
            and node.op_type == "Conv"
            and integer.can_quantise(node.input[1], ndim=3)
            and _is_dense(node)
        ):
            integer.add_convolution(node)
        else:
            integer.add_unchanged(node)
    for output in graph.output:
        integer.ensure_channels_first(output.name)
    used = {name for node in integer.nodes for name in node.input}
    constants = [item for item in [*graph.initializer, *integer.constants] if item.name in used]
    _replace(graph.node, integer.nodes)
    _replace(graph.initializer, constants)
    _save(model, out)
    return integer.num_convolutions


def check_fp16(reference: Path, path: Path, waveforms: Sequence[Waveform]) -> dict[str, float]:
    """Compare a graph with float16 weights to the float32 one; returns the figures for the card.

    A student with voices is run without a voice and with one. Raises `ModelError` where a probability or a
    dimension differs by more than 1e-2, or the emotion of any utterance changes.
    """
    sessions = [open_session(reference, threads=1), open_session(path, threads=1)]
    outputs = [
        [_predictions(session, wave, has_voice) for session in sessions]
        for wave in waveforms
        for has_voice in ((False, True) if len(sessions[0].get_inputs()) > 1 else (False,))
    ]
    # (utterances, 2, columns) of each output
    values = {name: np.array([[one[name] for one in pair] for pair in outputs]) for name in outputs[0][0]}
    # np.max returns NaN where there is one; max() may not.
    difference = float(np.max([np.abs(both[:, 0] - both[:, 1]).max() for both in values.values()]))
    agreement = 1.0
    if "probabilities" in values:
        emotions = values["probabilities"].argmax(axis=2)
        agreement = float(np.mean(emotions[:, 0] == emotions[:, 1]))
    if not (difference <= FP16_TOLERANCE and agreement == 1):
        raise ModelError(
            f"with weights in fp16 a probability or a dimension differs by {difference:.1e} and "
            f"{agreement:.1%} of {len(waveforms)} utterances keep their emotion; at most "
            f"{FP16_TOLERANCE:.0e} and all of them are required. Nothing was exported: choose --precision "
            "fp32."
        )
    figures = {"difference": difference, "agreement": agreement, "utterances": float(len(waveforms))}
    if "probabilities" not in values:
        del figures["agreement"]
    return figures


def check_int8(
    reference: Path, path: Path, waveforms: Sequence[Waveform], labels: Labels
) -> dict[str, float]:
    """Compare an int8 graph with the float32 graph on labelled utterances; returns the figures for the card.

    The figures are agreement, UA of both, the difference of the dimensions, and milliseconds for a second of
    audio on one thread. Both graphs take turns at each utterance. `labels` is not used for a model without
    emotions.

    Raises `ModelError` where int8 costs more than a point of UA, or where fewer than 98 % of the utterances
    keep their emotion. It also does where a dimension differs by a root mean square of more than 0.02, and
    where there are fewer than 64 utterances.
    """
    if len(waveforms) < MIN_CHECKED:
        raise ModelError(
            f"int8 is checked on at least {MIN_CHECKED} labelled, held-out utterances, got {len(waveforms)}: "
            "name a manifest with more (--check utterances.csv), or choose --precision fp16. Nothing was "
            "exported."
        )
    sessions = [open_session(reference, threads=1), open_session(path, threads=1)]
    seconds = np.zeros(2)
    outputs: list[list[dict[str, npt.NDArray[np.float32]]]] = [[], []]  # of fp32, of int8
    for session in sessions:
        _predictions(session, waveforms[0])  # the first run of a session is slower
    for wave in waveforms:
        for column, session in enumerate(sessions):
            started = time.perf_counter()
            outputs[column].append(_predictions(session, wave))
            seconds[column] += time.perf_counter() - started
    values = {name: np.array([[row[name] for row in rows] for rows in outputs]) for name in outputs[0][0]}
    figures = {} if "probabilities" not in values else _int8_emotions(values["probabilities"], labels)
    figures["utterances"] = float(len(waveforms))
    if "dimensions" in values:
        figures["dimension_rmse"] = _int8_dimensions(values["dimensions"])
    ms_per_s = 1000 * seconds / (sum(map(len, waveforms)) / SAMPLE_RATE)
    figures |= {f"{name}_ms_per_s": float(ms) for name, ms in zip(("fp32", "int8"), ms_per_s, strict=True)}
    return {**figures, "speed_ratio": float(seconds[0] / seconds[1])}


def _int8_emotions(probabilities: npt.NDArray[np.float32], labels: Labels) -> dict[str, float]:
    """The figures of `check_int8` for probabilities (2, utterances, emotions) of fp32 and int8."""
    predicted = probabilities.argmax(axis=2)
    ua = [unweighted_accuracy(labels, row) for row in predicted]
    agreement = float(np.mean(predicted[0] == predicted[1]))
    if not (ua[0] - ua[1] <= MAX_UA_LOSS and agreement >= MIN_AGREEMENT):
        raise ModelError(
            f"int8 changes UA from {100 * ua[0]:.2f} to {100 * ua[1]:.2f}, and {agreement:.1%} of "
            f"{len(labels)} utterances keep their emotion; at most {100 * MAX_UA_LOSS:.1f} points less "
            f"and at least {MIN_AGREEMENT:.0%} are required. Nothing was exported: choose --precision fp16."
        )
    return {"agreement": agreement, "ua_fp32": ua[0], "ua_int8": ua[1]}


def _int8_dimensions(dimensions: npt.NDArray[np.float32]) -> float:
    """The largest root mean square difference of a dimension; `dimensions` is (2, utterances, dimensions)."""
    rmse = float(np.sqrt(np.mean((dimensions[0] - dimensions[1]) ** 2, axis=0)).max())
    if not rmse <= MAX_DIMENSION_RMSE:
        raise ModelError(
            f"int8 changes a dimension by {rmse:.3f} (root mean square over {dimensions.shape[1]} "
            f"utterances, on a scale from 0 to 1); at most {MAX_DIMENSION_RMSE:g} is allowed. Nothing was "
            "exported: choose --precision fp16."
        )
    return rmse


def _predictions(
    session: onnxruntime.InferenceSession, waveform: Waveform, has_voice: bool = False
) -> dict[str, npt.NDArray[np.float32]]:
    """The `PREDICTIONS` of a waveform, each (columns,), without a voice or with one that is not zero."""
    inputs = {"waveform": np.pad(waveform, (0, max(0, MIN_INPUT_SAMPLES - len(waveform))))[None]}
    for item in session.get_inputs()[1:]:
        voice = np.linspace(-0.5, 0.5, item.shape[1], dtype=np.float32)[None]
        inputs[item.name] = voice if has_voice else np.zeros_like(voice)
    names = [item.name for item in session.get_outputs() if item.name in PREDICTIONS]
    return {name: value[0] for name, value in zip(names, session.run(names, inputs), strict=True)}


class _IntegerGraph:
    """A graph that is built node by node, with some products in integers.

    A convolution becomes a product, so its input and output have the layout (batch, frames, channels), here
    called rows. `rows` maps the name of a tensor to the name of its rows. The layout (batch, channels,
    frames) of the original graph is made for the nodes that need it alone, which saves transpositions between
    convolutions.
    """

    def __init__(self, weights: Sequence[TensorProto]) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.rows: dict[str, str] = {}
        self.num_convolutions = 0
        self._weights = {item.name: item for item in weights if item.data_type == TensorProto.FLOAT}
        self._quantised_inputs: dict[str, tuple[str, str, str]] = {}
        self._quantised_weights: dict[str, tuple[str, str, str]] = {}
        self._only_rows: set[str] = set()  # tensors whose original layout does not exist yet

    def can_quantise(self, name: str, ndim: int) -> bool:
        """Whether a tensor is a weight of that many dimensions that may be quantised."""
        weight = self._weights.get(name)
        # A convolution over one channel reads the waveform, whose range is too large for 8 bits.
        return weight is not None and len(weight.dims) == ndim and (ndim == 2 or weight.dims[1] > 1)

    def add_unchanged(self, node: NodeProto) -> None:
        """Add a node in float32; on rows where that saves a transposition."""
        first, output = node.input[0] if node.input else "", node.output[0]
        if first in self.rows and node.op_type in ELEMENTWISE:
            on_rows = NodeProto()
            on_rows.CopyFrom(node)
            on_rows.input[0], on_rows.output[0] = self.rows[first], f"{output}_rows"
            self.nodes.append(on_rows)
            self._register_rows(output, f"{output}_rows")
        elif first in self.rows and node.op_type == "Transpose" and _attribute(node, "perm") == [0, 2, 1]:
            self._add("Identity", [self.rows[first]], output)
        else:
            for name in node.input:
                self.ensure_channels_first(name)
            self.nodes.append(node)

    def add_matmul(self, node: NodeProto) -> None:
        """Add x (…, in) @ weight (in, out) in integers."""
        self.ensure_channels_first(node.input[0])
        weight = self._weights[node.input[1]]
        quantised = self._quantise_weight(weight.name, numpy_helper.to_array(weight))
        self._add_product(self._quantise_input(node.input[0]), quantised, node.output[0])

    def add_convolution(self, node: NodeProto) -> None:
        """Add a convolution in integers.

        x (batch, frames, in) is unfolded into (batch, frames out, kernel * in), and multiplied.
        """
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
        codes, scale, zero = self._quantise_input(rows)
        shifted = []
        for tap in range(taps):  # each tap reads one row for each frame out
            behind = taps - 1 - tap
            ends = -behind if behind else np.iinfo(np.int64).max
            bounds = [
                self._constant(f"{output}_tap{tap}_{name}", np.array([value]))
                for name, value in (("starts", tap), ("ends", ends), ("axes", 1), ("steps", stride))
            ]
            shifted.append(self._add("Slice", [codes, *bounds], f"{output}_tap{tap}"))
        unfolded = self._add("Concat", shifted, f"{output}_unfolded", axis=2) if taps > 1 else shifted[0]
        matrix = kernel.transpose(2, 1, 0).reshape(-1, kernel.shape[0])
        has_bias = len(node.input) > 2 and bool(node.input[2])
        product = f"{output}_product" if has_bias else f"{output}_rows"
        self._add_product((unfolded, scale, zero), self._quantise_weight(node.input[1], matrix), product)
        if has_bias:
            self._add("Add", [product, node.input[2]], f"{output}_rows")
        self._register_rows(output, f"{output}_rows")

    def ensure_channels_first(self, name: str) -> None:
        """Make (batch, channels, frames) of a tensor that so far exists as rows alone."""
        if name in self._only_rows:
            self._only_rows.remove(name)
            self._add("Transpose", [self.rows[name]], name, perm=[0, 2, 1])

    def _register_rows(self, name: str, rows: str) -> None:
        self.rows[name] = rows
        self._only_rows.add(name)

    def _quantise_input(self, name: str) -> tuple[str, str, str]:
        """A tensor's codes, scale and zero point. They are computed once for all nodes that read it."""
        if name not in self._quantised_inputs:
            outputs = (f"{name}_codes", f"{name}_scale", f"{name}_zero")
            self.nodes.append(helper.make_node("DynamicQuantizeLinear", [name], outputs))
            self._quantised_inputs[name] = outputs
        return self._quantised_inputs[name]

    def _quantise_weight(self, name: str, weight: npt.NDArray[np.float32]) -> tuple[str, str, str]:
        """The constants of a weight (in, out): int8 codes, and scales and zero points (out,)."""
        if name not in self._quantised_weights:
            codes, scale = quantise_columns(weight)
            self._quantised_weights[name] = (
                self._constant(f"{name}_codes", codes),
                self._constant(f"{name}_scale", scale),
                self._constant(f"{name}_zero", np.zeros(len(scale), np.int8)),
            )
        return self._quantised_weights[name]

    def _add_product(self, x: tuple[str, str, str], weight: tuple[str, str, str], output: str) -> None:
        """Add a product as these four operators, which ONNX Runtime recognises and runs as one."""
        codes, scale, zero = x
        integer = self._add("MatMulInteger", [codes, weight[0], zero, weight[2]], f"{output}_integer")
        real = self._add("Cast", [integer], f"{output}_real", to=TensorProto.FLOAT)
        step = self._add("Mul", [scale, weight[1]], f"{output}_step")
        self._add("Mul", [real, step], output)

    def _add(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def _constant(self, name: str, value: npt.NDArray[Any]) -> str:
        self.constants.append(numpy_helper.from_array(value, name))
        return name


def _is_dense(convolution: NodeProto) -> bool:
    """Whether a convolution has one group, no dilation, and explicit padding."""
    return (
        _attribute(convolution, "group", 1) == 1
        and set(_attribute(convolution, "dilations", [1])) == {1}
        and _attribute(convolution, "auto_pad", b"NOTSET") == b"NOTSET"
    )


def _attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    values = [helper.get_attribute_value(item) for item in node.attribute if item.name == name]
    return values[0] if values else default


def _replace(field: Any, items: Sequence[Any]) -> None:
    del field[:]
    field.extend(items)


def _save(model: onnx.ModelProto, out: Path) -> None:
    del model.graph.value_info[:]  # shapes and types of values that may no longer exist
    onnx.save(model, out)
