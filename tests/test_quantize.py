"""Fewer bits: a graph of any shape changes by rounding alone, and the gates refuse larger changes."""

import collections
from pathlib import Path
from typing import Any

import factories as make
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from emodistill.errors import ModelError
from emodistill.export.quantize import MIN_CHECKED, check_fp16, check_int8, quantise_to_int8, store_in_fp16

WAVES = [make.speech(0.2 + 0.01 * index, 100 + 3 * index, seed=index) for index in range(MIN_CHECKED)]


def write(path: Path, nodes: list[Any], weights: dict[str, np.ndarray], rank: int, output: str = "y") -> Path:
    """Write a graph from `x`, a tensor of that rank, to one output."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g",
        [value("x", TensorProto.FLOAT, [f"d{axis}" for axis in range(rank)])],
        [value(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path)
    return path


def run(path: Path, x: np.ndarray, name: str = "x") -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {name: x})[0])


def kinds(path: Path) -> collections.Counter[str]:
    return collections.Counter(node.op_type for node in onnx.load(path).graph.node)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31), channels=st.integers(2, 9), out=st.integers(1, 9), taps=st.integers(1, 5),
    stride=st.integers(1, 4), before=st.integers(0, 2), after=st.integers(0, 2), more=st.integers(0, 12),
    batch=st.integers(1, 3), biased=st.booleans(),
)  # fmt: skip
def test_an_integer_convolution_differs_by_rounding_alone(
    seed: int, channels: int, out: int, taps: int, stride: int, before: int, after: int, more: int,
    batch: int, biased: bool, tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, channels, taps + more)).astype(np.float32)
    weights = {"w": rng.standard_normal((out, channels, taps)).astype(np.float32)}
    if biased:
        weights["b"] = rng.standard_normal(out).astype(np.float32)
    conv = helper.make_node("Conv", ["x", *weights], ["y"], strides=[stride], pads=[before, after])
    folder = tmp_path_factory.mktemp("conv")
    source = write(folder / "a.onnx", [conv], weights, 3)
    assert quantise_to_int8(source, folder / "b.onnx") == 1
    expected, got = run(source, x), run(folder / "b.onnx", x)
    assert kinds(folder / "b.onnx")["MatMulInteger"] == 1
    assert got.shape == expected.shape
    # The largest error of rounding: half a step of x for every weight, and half a step of a weight for every
    # x.
    step_x = (max(x.max(), 0) - min(x.min(), 0)) / 255
    step_w = np.abs(weights["w"]).max(axis=(1, 2)) / 127
    products = channels * taps
    bound = (
        np.abs(weights["w"]).sum(axis=(1, 2)) * step_x + products * np.abs(x).max() * step_w / 2 + 1e-4
    )  # fmt: skip
    assert (np.abs(got - expected) <= bound[None, :, None]).all()


def test_an_integer_matmul_agrees_with_quantize_dynamic_and_shares_its_codes(tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((32, 24)).astype(np.float32) for name in "qk"}
    nodes = [helper.make_node("MatMul", ["x", name], [f"y_{name}"]) for name in weights]
    source = write(tmp_path / "a.onnx", [*nodes, helper.make_node("Sub", ["y_q", "y_k"], ["y"])], weights, 3)
    assert quantise_to_int8(source, tmp_path / "b.onnx") == 0
    quantize_dynamic(source, tmp_path / "c.onnx", weight_type=QuantType.QInt8, per_channel=True)
    x = rng.standard_normal((2, 7, 32)).astype(np.float32)
    np.testing.assert_allclose(run(tmp_path / "b.onnx", x), run(tmp_path / "c.onnx", x), atol=0.05)
    assert np.abs(run(tmp_path / "b.onnx", x) - run(source, x)).max() < 0.5  # values are up to ± 30
    count = kinds(tmp_path / "b.onnx")
    assert (count["MatMulInteger"], count["DynamicQuantizeLinear"], count["MatMul"]) == (2, 1, 0)
    assert {item.name for item in onnx.load(tmp_path / "b.onnx").graph.initializer} == {
        f"{name}_{what}" for name in weights for what in ("codes", "scale", "zero")
    }, "no weight is left behind in float32"


def chain(folder: Path) -> Path:
    """Two strided convolutions, a Gelu after each, a mean of the first's output, a Transpose, a MatMul."""
    rng = np.random.default_rng(1)
    weights = {
        "w1": rng.standard_normal((6, 4, 3)).astype(np.float32) / 3,
        "w2": rng.standard_normal((6, 6, 2)).astype(np.float32) / 3,
        "w3": rng.standard_normal((6, 5)).astype(np.float32) / 3,
        "axis": np.array([2]),
    }
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w1"], ["c1"], strides=[2]),
        node("Gelu", ["c1"], ["g1"]),
        node("Conv", ["g1", "w2"], ["c2"], strides=[2]),
        node("Gelu", ["c2"], ["g2"]),
        node("Transpose", ["g2"], ["t"], perm=[0, 2, 1]),
        node("MatMul", ["t", "w3"], ["m"]),
        node("ReduceMean", ["g1", "axis"], ["pooled"], keepdims=1),  # needs (batch, channels, frames)
        node("ReduceMean", ["pooled"], ["one"], keepdims=1),
        node("Add", ["m", "one"], ["y"]),
    ]  # fmt: skip
    return write(folder / "a.onnx", nodes, weights, 3)


def test_nothing_is_transposed_between_convolutions(tmp_path: Path) -> None:
    source = chain(tmp_path)
    assert quantise_to_int8(source, tmp_path / "b.onnx") == 2
    x = np.random.default_rng(2).standard_normal((2, 4, 40)).astype(np.float32)
    expected, got = run(source, x), run(tmp_path / "b.onnx", x)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() < 0.05 < np.abs(expected).max()
    assert kinds(tmp_path / "b.onnx")["Transpose"] == 2, "one at the input, and one for the mean"


def test_exact_weights_and_special_convolutions_stay_float32(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    weights = {
        "front": rng.standard_normal((4, 1, 8)).astype(np.float32),  # reads the waveform
        "depth": rng.standard_normal((4, 1, 3)).astype(np.float32),
        "grouped": rng.standard_normal((4, 2, 3)).astype(np.float32),
        "wide": rng.standard_normal((4, 4, 3)).astype(np.float32),
        "named": rng.standard_normal((4, 4, 1)).astype(np.float32),
        "filters": rng.standard_normal((4, 3)).astype(np.float32),
    }
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "front"], ["a"], strides=[2]),
        node("Conv", ["a", "depth"], ["b"], group=4),
        node("Conv", ["b", "grouped"], ["c"], group=2),
        node("Conv", ["c", "wide"], ["d"], dilations=[2]),
        node("Conv", ["d", "named"], ["e"]),
        node("Transpose", ["e"], ["f"], perm=[0, 2, 1]),
        node("MatMul", ["f", "filters"], ["y"]),
    ]
    source = write(tmp_path / "a.onnx", nodes, weights, 3)
    assert quantise_to_int8(source, tmp_path / "b.onnx", exact={"named", "filters"}) == 0
    assert kinds(tmp_path / "b.onnx") == kinds(source)
    x = rng.standard_normal((1, 1, 64)).astype(np.float32)
    np.testing.assert_array_equal(run(tmp_path / "b.onnx", x), run(source, x))
    assert quantise_to_int8(source, tmp_path / "c.onnx", convolutions=False) == 0
    assert kinds(tmp_path / "c.onnx")["Conv"] == 5
    assert kinds(tmp_path / "c.onnx")["MatMulInteger"] == 1


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.sampled_from([1e-3, 1.0, 100.0]))
def test_fp16_rounds_the_weights_and_nothing_else(
    seed: int, scale: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("half")
    weights = {
        "w": scale * rng.standard_normal((5, 4)).astype(np.float32),
        "b": scale * rng.standard_normal(4).astype(np.float32),  # a vector: stays
        "kept": scale * rng.standard_normal((4, 4)).astype(np.float32),
        "huge": np.full((4, 4), 1e6, np.float32),  # float16 ends at 65504
    }
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "b"], ["n"]),
        node("MatMul", ["n", "kept"], ["o"]), node("MatMul", ["o", "huge"], ["y"]),
    ]  # fmt: skip
    source = write(folder / "a.onnx", nodes, weights, 2)
    store_in_fp16(source, folder / "b.onnx", exact={"kept"})
    rounded = {**weights, "w": weights["w"].astype(np.float16).astype(np.float32)}
    expected = write(folder / "c.onnx", nodes, rounded, 2)
    x = rng.standard_normal((3, 5)).astype(np.float32)
    np.testing.assert_array_equal(run(folder / "b.onnx", x), run(expected, x))
    stored = {item.name: item.data_type for item in onnx.load(folder / "b.onnx").graph.initializer}
    half, whole = TensorProto.FLOAT16, TensorProto.FLOAT
    assert stored == {"w": half, "b": whole, "kept": whole, "huge": whole}


# --- the gates -----------------------------------------------------------------------------------


LEVEL = float(np.median([np.abs(wave).mean() for wave in WAVES]))


def loudness_model(path: Path, bias: float = 0.0) -> Path:
    """Write a graph: waveform (batch, samples) -> probabilities of (loud, quiet), from biased logits."""
    weights = {
        "scale": np.array([200.0, -200.0], np.float32), "axis": np.array([1]),
        "bias": np.array([-200 * LEVEL + bias, 200 * LEVEL], np.float32),
    }  # fmt: skip
    node = helper.make_node
    nodes = [
        node("Abs", ["waveform"], ["abs"]), node("ReduceMean", ["abs", "axis"], ["loud"]),
        node("Mul", ["loud", "scale"], ["m"]), node("Add", ["m", "bias"], ["logits"]),
        node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]  # fmt: skip
    write(path, nodes, weights, 2, "probabilities")
    model = onnx.load(path)
    model.graph.input[0].name = "waveform"
    onnx.save(model, path)
    return path


def labels_of(path: Path) -> list[int]:
    return [int(run(path, wave[None], "waveform")[0].argmax()) for wave in WAVES]


def test_the_gates_pass_equal_models_and_return_the_figures(tmp_path: Path) -> None:
    model = loudness_model(tmp_path / "a.onnx")
    labels = labels_of(model)
    assert set(labels) == {0, 1}
    half = check_fp16(model, loudness_model(tmp_path / "b.onnx", bias=1e-3), WAVES)
    assert half["agreement"] == 1
    assert 0 < half["difference"] <= 1e-2
    wrong = [1 - label if index == 0 else label for index, label in enumerate(labels)]
    figures = check_int8(model, model, WAVES, wrong)
    assert (figures["agreement"], figures["utterances"]) == (1, MIN_CHECKED)
    assert figures["ua_fp32"] == figures["ua_int8"] < 1
    assert figures["speed_ratio"] == pytest.approx(figures["fp32_ms_per_s"] / figures["int8_ms_per_s"])
    assert min(figures["fp32_ms_per_s"], figures["int8_ms_per_s"]) > 0


def test_the_gates_refuse_with_the_figures(tmp_path: Path) -> None:
    model = loudness_model(tmp_path / "a.onnx")
    labels = labels_of(model)
    moved = loudness_model(tmp_path / "b.onnx", bias=3.0)
    share = f"{np.mean(np.equal(labels, labels_of(moved))):.1%}"
    with pytest.raises(ModelError, match=rf"or a dimension differs by .* and {share} of 64 utterances"):
        check_fp16(model, moved, WAVES)
    with pytest.raises(ModelError, match=r"differs by nan"):
        check_fp16(model, loudness_model(tmp_path / "c.onnx", bias=float("nan")), WAVES)
    with pytest.raises(
        ModelError, match=rf"int8 changes UA from 100.00 to .*, and {share} of 64 utterances keep"
    ):
        check_int8(model, moved, WAVES, labels)
    one_class = [labels[0]] * MIN_CHECKED  # so that every changed emotion was right before
    with pytest.raises(ModelError, match=r"at most 1\.0 points less and at least 98%"):
        check_int8(model, moved, WAVES, one_class)
    with pytest.raises(ModelError, match=r"at least 64 labelled, held-out utterances, got 63: .*--check"):
        check_int8(model, model, WAVES[1:], labels[1:])
