"""Models of strangers: nothing in their files runs, no other file is read, and the memory has a limit."""

import ast
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import factories as make
import numpy as np
import onnx
import onnxruntime
import pytest
from factories_voices import model_without_voices
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from emodistill import EmodistillError, ModelError, Recognizer
from emodistill.audio import onnx_session
from emodistill.audio.onnx_graph import MAX_FUNCTION_DEPTH, MAX_FUNCTION_NODES, check_file, check_graph
from emodistill.audio.onnx_session import MEMORY_VARIABLE, open_session
from emodistill.features.cache import ArrayCache
from emodistill.inference.fetch import Safetensors
from emodistill.inference.model_card import MAX_DESCRIPTION_BYTES, pack_description, read_description

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "emodistill"
SOUND = make.speech(0.5)


# --- no code ---------------------------------------------------------------------------------------


class Trap:
    """An object whose pickle writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def trap(place: Path) -> tuple[bytes, Path]:
    """A pickle, and the folder that it makes if anything loads it."""
    sprung = place / "sprung"
    return pickle.dumps({"state_dict": Trap(sprung), "weights": Trap(sprung)}), sprung


def torch_trap(place: Path) -> tuple[bytes, Path]:
    """The same in the format of `torch.save`."""
    import torch

    file, sprung = io.BytesIO(), place / "sprung"
    torch.save({"state_dict": Trap(sprung), "epoch": 1}, file)
    return file.getvalue(), sprung


def teacher(folder: Path) -> Path:
    from emodistill.config import ProsodicConfig
    from emodistill.labels import LabelSet
    from emodistill.models.checkpoint import save_checkpoint
    from emodistill.models.prosodic import ProsodicTeacher

    labels = LabelSet(make.EMOTIONS)
    save_checkpoint(folder, ProsodicTeacher(ProsodicConfig(), len(labels)), labels, ["a"])
    return folder


def load_weights(place: Path, content: bytes) -> None:
    from emodistill.models.checkpoint import load_checkpoint

    (teacher(place / "model") / "model.safetensors").write_bytes(content)
    load_checkpoint(place / "model")


def load_description(place: Path, content: bytes) -> None:
    from emodistill.models.checkpoint import load_checkpoint

    (teacher(place / "model") / "model.json").write_bytes(content)
    load_checkpoint(place / "model")


def load_array(place: Path, content: bytes) -> None:
    cache = ArrayCache(place)
    cache.path("ab").parent.mkdir()
    cache.path("ab").write_bytes(content)
    cache.read("ab")


def load_object_array(place: Path, content: bytes) -> None:
    file = io.BytesIO()
    np.save(file, np.array([Trap(place / "sprung")], dtype=object), allow_pickle=True)
    load_array(place, file.getvalue())


def load_targets(place: Path, content: bytes) -> None:
    from emodistill.training.targets import TeacherTargets

    (place / "targets.safetensors").write_bytes(content)
    TeacherTargets.read(place / "targets.safetensors", ["a"])


def load_fetched(place: Path, content: bytes) -> None:
    (place / "model.safetensors").write_bytes(content)
    Safetensors(place / "model.safetensors")


def load_graph(place: Path, content: bytes) -> None:
    (place / "model.onnx").write_bytes(content)
    open_session(place / "model.onnx")


def load_backbone(place: Path, content: bytes) -> None:
    from emodistill.models.backbones import load_backbone as load

    folder = make.PRETRAINED["hubert"](place / "hf")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(content)
    load(str(folder), None)


def load_classifier(place: Path, content: bytes) -> None:
    from emodistill.training.transformers_models import load_audio_model

    folder = make.classifier(place / "hf")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(content)
    load_audio_model(str(folder))


def load_database(place: Path, content: bytes) -> None:
    from emodistill.corpora import TABLE_READERS, TableOptions

    (place / "db.yaml").write_text(
        "name: tiny\nsource: x\nusage: research\nlanguages: []\n"
        "tables:\n  files:\n    type: filewise\n    columns:\n      emotion: {}\n"
    )
    (place / "db.files.pkl").write_bytes(content)
    TABLE_READERS["audformat"].read(place, TableOptions())


def load_yaml(place: Path, content: bytes) -> None:
    from emodistill.corpora import TABLE_READERS, TableOptions

    (place / "db.yaml").write_text(f"name: !!python/object/apply:os.mkdir ['{place / 'sprung'}']\n")
    TABLE_READERS["audformat"].read(place, TableOptions())


LOADERS: dict[str, Callable[[Path, bytes], None]] = {
    "weights of a checkpoint": load_weights,
    "description of a checkpoint": load_description,
    "array of the cache": load_array,
    "array of objects in the cache": load_object_array,
    "targets of a teacher": load_targets,
    "published weights": load_fetched,
    "graph": load_graph,
    "backbone of transformers": load_backbone,
    "classifier of transformers": load_classifier,
    "table of an audformat database": load_database,
    "header of an audformat database": load_yaml,
}


@pytest.mark.parametrize("make_trap", [trap, torch_trap])
@pytest.mark.parametrize("name", LOADERS)
def test_a_pickle_in_the_place_of_a_file_never_runs(
    name: str, make_trap: Callable[[Path], tuple[bytes, Path]], tmp_path: Path
) -> None:
    content, sprung = make_trap(tmp_path)
    with pytest.raises((EmodistillError, OSError)) as caught:
        LOADERS[name](tmp_path, content)
    assert len(str(caught.value)) > 20
    assert not sprung.exists()


def test_a_pickle_in_the_place_of_the_state_of_a_training_never_runs(tmp_path: Path) -> None:
    from emodistill.training.cross_validation import crossval

    content, sprung = torch_trap(tmp_path)
    out = tmp_path / "run"
    recipe = make.recipe(make.corpus_folder(tmp_path / "data"))
    fold = out / "fold-0" / "first" / "prosodic"
    for folder in (fold, out / "fold-0" / "prosodic", out / "fold-0" / "refit" / "prosodic"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "last.ckpt").write_bytes(content)
    with suppress(EmodistillError, pickle.UnpicklingError):
        crossval(recipe, out)
    assert not sprung.exists()


CODE = "import os\nos.mkdir({path!r})\nclass Any:\n    pass\n"


@pytest.mark.parametrize("kind", ["backbone", "encoder", "classifier", "checkpoint"])
def test_code_beside_a_model_of_transformers_never_runs(kind: str, tmp_path: Path) -> None:
    from emodistill.config import LinguisticConfig
    from emodistill.models.backbones import load_backbone as load
    from emodistill.models.checkpoint import load_checkpoint
    from emodistill.models.linguistic import LinguisticTeacher
    from emodistill.training.transformers_models import load_audio_model

    folder = tmp_path / "hf"
    sprung = tmp_path / "sprung"
    if kind == "backbone":
        make.PRETRAINED["hubert"](folder)
    elif kind == "encoder":
        make.PRETRAINED["bert"](folder)
    elif kind == "classifier":
        make.classifier(folder)
    else:
        teacher(folder)
    (folder / "evil.py").write_text(CODE.format(path=str(sprung)))
    classes = ("AutoConfig", "AutoModel", "AutoModelForAudioClassification", "AutoFeatureExtractor")
    named = dict.fromkeys(classes, "evil.Any")
    path = folder / ("model.json" if kind == "checkpoint" else "config.json")
    config = json.loads(path.read_text())
    config |= {"model_type": "evil", "auto_map": {**named, "AutoTokenizer": ["evil.Any", "evil.Any"]}}
    if kind == "checkpoint":
        config |= {"kind": "evil"}
    path.write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Any", "auto_map": {"AutoTokenizer": ["evil.Any", "evil.Any"]}})
    )
    calls: dict[str, Callable[[], Any]] = {
        "backbone": lambda: load(str(folder), None),
        "encoder": lambda: LinguisticTeacher.create(LinguisticConfig(encoder=str(folder)), 2, ["stop that"]),
        "classifier": lambda: load_audio_model(str(folder)),
        "checkpoint": lambda: load_checkpoint(folder),
    }
    with pytest.raises(EmodistillError):
        calls[kind]()
    assert not sprung.exists()


# In the source: what would run code of a file, or a shell.
FORBIDDEN = {
    "a pickle": re.compile(
        r"\b(import|from) (pickle|cPickle|dill|cloudpickle|shelve|marshal)\b|joblib\.load|read_pickle"
    ),
    "a pickle in an array": re.compile(r"allow_pickle\s*=\s*True"),
    "weights that may hold a pickle": re.compile(r"weights_only\s*=\s*False"),
    "code of the hub": re.compile(r"trust_remote_code\s*=\s*True(?!`)"),
    "a shell": re.compile(r"os\.system|os\.popen|shell\s*=\s*True|commands\.getoutput"),
    "an unsafe loader of YAML": re.compile(r"yaml\.(load|full_load|unsafe_load)\("),
}
BUILT_IN = ("eval", "exec", "compile", "__import__")


def sources() -> Sequence[Path]:
    return sorted(path for path in SOURCE.rglob("*.py") if "assets" not in path.parts)


@pytest.mark.parametrize("what", FORBIDDEN)
def test_the_source_never_uses(what: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sources()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if FORBIDDEN[what].search(line)
    ]
    assert found == []


def test_the_source_never_calls_what_runs_text() -> None:
    found = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in BUILT_IN:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert found == []


def test_every_load_of_transformers_refuses_code_of_the_model() -> None:
    """A class whose name begins with Auto would otherwise ask the user whether to run it."""
    found = []
    for path in sources():
        if path.name == "modeling_emodistill.py":  # it is the code of a model
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_load = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            if not is_load or node.func.attr not in ("from_pretrained", "from_config"):
                continue
            owner = ast.unparse(node.func.value)
            if not owner.startswith("Auto"):
                continue
            given = {item.arg: ast.unparse(item.value) for item in node.keywords}
            if given.get("trust_remote_code") != "False":
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert found == []


# --- ONNX ------------------------------------------------------------------------------------------


def graph(
    nodes: Sequence[onnx.NodeProto], tensors: Sequence[TensorProto] = (), **opsets: int
) -> onnx.ModelProto:
    """A model whose input is `waveform` and whose output is `probabilities`."""
    body = helper.make_graph(
        nodes, "student",
        [helper.make_tensor_value_info("waveform", TensorProto.FLOAT, ["batch", "samples"])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, None)], list(tensors),
    )  # fmt: skip
    imports = [helper.make_opsetid("", 18), *(helper.make_opsetid(name, one) for name, one in opsets.items())]
    return helper.make_model(body, opset_imports=imports, ir_version=9)


def write(model: onnx.ModelProto, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


def weight(dims: Sequence[int], location: str | None = None, **more: Any) -> TensorProto:
    """A tensor without data, or with data in another file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, **more)
    tensor.dims.extend(dims)
    if location is not None:
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
    return tensor


ADD = [
    helper.make_node("ReduceMean", ["w"], ["mean"], keepdims=0),
    helper.make_node("Add", ["waveform", "mean"], ["probabilities"]),
]


@pytest.mark.parametrize(
    "location",
    ["../secret.bin", "{place}/secret.bin", "link.bin", "out/secret.bin", "/dev/zero", "C:\\secret.bin",
     "..\\secret.bin", "", "x/../../secret.bin", "/etc/passwd", "a\0b"],
)  # fmt: skip
def test_weights_outside_of_the_folder_are_never_read(location: str, tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(np.ones(4, dtype=np.float32).tobytes())
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "out").symlink_to(tmp_path)
    path = write(graph(ADD, [weight([4], location.format(place=tmp_path))]), folder)
    with pytest.raises(ModelError, match="outside of its folder"):
        open_session(path)


def test_weights_in_the_folder_are_read_also_through_the_cache_of_the_hub(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / "b").write_bytes(np.ones(4, dtype=np.float32).tobytes())
    shutil.copy(write(graph(ADD, [weight([4], "weights.bin")]), tmp_path / "x"), blobs / "a")
    plain = tmp_path / "plain"
    plain.mkdir()
    shutil.copy(blobs / "a", plain / "model.onnx")
    shutil.copy(blobs / "b", plain / "weights.bin")
    (value,) = open_session(plain / "model.onnx").run(None, {"waveform": np.zeros((1, 3), np.float32)})
    np.testing.assert_array_equal(value, np.ones((1, 3)))
    for name, blob in (("model.onnx", "a"), ("weights.bin", "b")):
        (snapshot / name).symlink_to(Path("../../blobs") / blob)
    check_file(snapshot / "model.onnx")


def test_missing_weights_and_weights_of_a_model_in_memory_are_refused(tmp_path: Path) -> None:
    model = graph(ADD, [weight([4], "weights.bin")])
    with pytest.raises(ModelError, match="is missing in its folder"):
        open_session(write(model, tmp_path))
    with pytest.raises(ModelError, match="give its folder"):
        open_session(model.SerializeToString())


@pytest.mark.parametrize("place", ["graph", "branch", "function"])
def test_operators_of_others_are_refused_by_name(place: str, tmp_path: Path) -> None:
    node = helper.make_node("Evil", ["waveform"], ["probabilities"], domain="evil.corp")
    model = graph([node], **{"evil.corp": 1})
    if place == "branch":
        body = helper.make_graph(
            [node], "body", [], [helper.make_tensor_value_info("probabilities", 1, None)]
        )
        choose = helper.make_node("If", ["yes"], ["probabilities"], then_branch=body, else_branch=body)
        model = graph([choose], [numpy_helper.from_array(np.array(True), "yes")], **{"evil.corp": 1})
    elif place == "function":
        function = helper.make_function("own", "Mine", ["waveform"], ["probabilities"], [node], [])
        model = graph([helper.make_node("Mine", ["waveform"], ["probabilities"], domain="own")], own=1)
        model.functions.append(function)
    with pytest.raises(ModelError, match=r"operator 'Evil' of the domain 'evil\.corp'"):
        open_session(write(model, tmp_path))


def functions(depth: int, width: int) -> onnx.ModelProto:
    """A model whose functions each call the one before several times; the first calls Abs."""
    defined, imports = [], [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    for level in range(depth):
        called, domain = (f"F{level - 1}", "own") if level else ("Abs", "")
        names = ["x", *(f"t{place}" for place in range(1, width)), "y"]
        nodes = [helper.make_node(called, [a], [b], domain=domain) for a, b in pairwise(names)]
        defined.append(helper.make_function("own", f"F{level}", ["x"], ["y"], nodes, imports))
    node = helper.make_node(f"F{depth - 1}", ["waveform"], ["probabilities"], domain="own")
    model = graph([node], own=1)
    model.functions.extend(defined)
    return model


@given(st.integers(1, 120), st.integers(1, 40))
def test_functions_are_refused_where_they_write_out_to_many_nodes(depth: int, width: int) -> None:
    content = memoryview(functions(depth, width).SerializeToString())
    if depth > MAX_FUNCTION_DEPTH:
        expected = "has functions in functions, over 100 levels deep"
    elif sum(width**level for level in range(depth + 1)) > MAX_FUNCTION_NODES:
        expected = "has functions that write out to over 20000 nodes"
    else:
        check_graph(content, "it", None)
        return
    with pytest.raises(ModelError, match=expected):
        check_graph(content, "it", None)


def test_a_function_that_calls_itself_is_refused() -> None:
    model = functions(2, 2)
    model.functions[0].node[0].op_type, model.functions[0].node[0].domain = "F1", "own"
    with pytest.raises(ModelError, match="has functions in functions"):
        check_graph(memoryview(model.SerializeToString()), "it", None)


def test_functions_without_nodes_and_with_overloads_count_too() -> None:
    model = functions(25, 2)
    for function in model.functions:
        del function.output[:]
        for node in function.node:
            del node.output[:]
    del model.functions[0].node[:]
    named = functions(25, 2)
    for function in named.functions:
        function.name = function.name.replace("F", "F:")
        for node in function.node:
            if node.domain:
                node.op_type, node.overload = "F", node.op_type[1:]
    named.graph.node[0].op_type, named.graph.node[0].overload = "F", "24"
    for hostile in (model, named):
        with pytest.raises(ModelError, match="has functions that write out to over 20000 nodes"):
            check_graph(memoryview(hostile.SerializeToString()), "it", None)


def with_texts(kind: str) -> onnx.ModelProto:
    """A model that makes texts."""
    text = helper.make_tensor("s", TensorProto.STRING, [1], [b"a" * 1000])
    if kind == "weight":
        return graph([], [text])
    if kind == "cast":
        return graph([helper.make_node("Cast", ["waveform"], ["s"], to=TensorProto.STRING)])
    if kind in ("cast in a function", "cast in two functions", "cast by default"):
        cast = helper.make_node("Cast", ["x"], ["y"])
        cast.attribute.append(onnx.AttributeProto(name="to", ref_attr_name="type", type="INT"))
        imports = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
        defined = [helper.make_function("own", "Texts", ["x"], ["y"], [cast], imports, ["type"])]
        name, options = "Texts", {"type": 8}
        if kind == "cast in two functions":
            inner = helper.make_node("Texts", ["x"], ["y"], domain="own")
            inner.attribute.append(onnx.AttributeProto(name="type", ref_attr_name="kind", type="INT"))
            defined.append(helper.make_function("own", "Outer", ["x"], ["y"], [inner], imports, ["kind"]))
            name, options = "Outer", {"kind": 8}
        if kind == "cast by default":
            del defined[0].attribute[:]
            defined[0].attribute_proto.append(helper.make_attribute("type", 8))
            options = {}
        model = graph([helper.make_node(name, ["waveform"], ["s"], domain="own", **options)], own=1)
        model.functions.extend(defined)
        return model
    if kind in ("text of a call", "texts of a call"):
        name, given, place = (
            ("value_string", "text", 3) if kind == "text of a call" else ("value_strings", "activations", 8)
        )
        constant = helper.make_node("Constant", [], ["y"])
        constant.attribute.append(onnx.AttributeProto(name=name, ref_attr_name=given, type=place))
        imports = [helper.make_opsetid("", 18)]
        value: Any = "a" if place == 3 else ["a"]
        model = graph([helper.make_node("F", [], ["s"], domain="own", **{given: value})], own=1)
        model.functions.append(helper.make_function("own", "F", [], ["y"], [constant], imports, [given]))
        return model
    if kind in ("input", "sequence"):
        model = graph([])
        make_info = (
            helper.make_tensor_value_info if kind == "input" else helper.make_tensor_sequence_value_info
        )
        model.graph.input.append(make_info("s", TensorProto.STRING, [1]))
        return model
    if kind == "cast of 33 bits":
        return graph([helper.make_node("Cast", ["waveform"], ["s"], to=2**32 + TensorProto.STRING)])
    if kind == "concatenation":
        return graph([helper.make_node("StringConcat", ["a", "a"], ["s"])])
    options = {
        "constant": {"value": text},
        "one text": {"value_string": "a"},
        "texts": {"value_strings": ["a", "b"]},
    }
    if kind in options:
        return graph([helper.make_node("Constant", [], ["s"], **options[kind])])
    return graph(
        [helper.make_node("LabelEncoder", ["waveform"], ["s"], domain="ai.onnx.ml", keys_floats=[0.0],
                          values_strings=["a"])], **{"ai.onnx.ml": 3},
    )  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    ["weight", "cast", "cast in a function", "cast in two functions", "cast by default", "constant",
     "one text", "texts", "labels", "text of a call", "texts of a call", "input", "sequence",
     "cast of 33 bits", "concatenation"],
)  # fmt: skip
def test_a_model_that_makes_texts_is_refused(kind: str) -> None:
    model = with_texts(kind)
    with pytest.raises(ModelError, match=r"makes texts \(.*\), expected numbers alone"):
        check_graph(memoryview(model.SerializeToString()), "it", None)


def test_a_field_with_a_number_of_over_32_bits_is_refused() -> None:
    content = graph([]).SerializeToString()
    for tag in (b"\xba\x80\x80\x80\x10", b"\x02"):  # ONNX Runtime reads the first one as a graph.
        with pytest.raises(ModelError, match="a field has the number"):
            check_graph(memoryview(content + tag + b"\x00"), "it", None)


def test_a_field_of_another_kind_hides_no_operator() -> None:
    loop = helper.make_node("Loop", ["w"], ["probabilities"])
    node = loop.SerializeToString() + b"\x25Abs "  # The name again, as four bytes: ONNX Runtime skips it.
    model = onnx.ModelProto().SerializeToString()
    body = b"\x0a" + bytes([len(node)]) + node
    content = model + b"\x3a" + bytes([len(body)]) + body
    with pytest.raises(ModelError, match="operator 'Loop'"):
        check_graph(memoryview(content), "it", None)


def test_a_file_in_the_other_format_of_onnx_runtime_is_not_read(tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(
        graph([helper.make_node("Abs", ["waveform"], ["probabilities"])]).SerializeToString(), options
    )
    content = (tmp_path / "model.ort").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_session, "check_graph", lambda *_: None)
        for model in (content, tmp_path / "model.ort"):
            with pytest.raises(ModelError, match="cannot be run by ONNX Runtime"):
                open_session(model)


def test_eights_that_are_no_type_of_texts_are_read() -> None:
    cast = helper.make_node("Cast", ["x"], ["y"])
    cast.attribute.append(onnx.AttributeProto(name="to", ref_attr_name="type", type="INT"))
    function = helper.make_function("own", "F", ["x"], ["y"], [cast], [helper.make_opsetid("", 18)], ["type"])
    call = helper.make_node("F", ["waveform"], ["a"], domain="own", type=TensorProto.FLOAT)
    model = graph([call, helper.make_node("Split", ["a"], ["probabilities"], num_outputs=8)], own=1)
    model.functions.append(function)
    check_graph(memoryview(model.SerializeToString()), "it", None)


@pytest.mark.parametrize("operator", ["Loop", "Scan"])
def test_loops_are_refused(operator: str, tmp_path: Path) -> None:
    node = helper.make_node(operator, ["w"], ["probabilities"])
    with pytest.raises(ModelError, match=f"operator '{operator}', whose rounds nothing bounds"):
        open_session(write(graph([node]), tmp_path))


def test_graphs_in_graphs_are_not_endless(tmp_path: Path) -> None:
    body = helper.make_graph([], "body", [], [])
    for _ in range(18):
        body = helper.make_graph([helper.make_node("If", ["y"], ["z"], then_branch=body)], "body", [], [])
    model = graph([helper.make_node("If", ["y"], ["probabilities"], then_branch=body)])
    with pytest.raises(ModelError, match="levels deep"):
        open_session(write(model, tmp_path))


@pytest.mark.parametrize("dims", [[2**38], [2**40, 2**40], [-1], [2**62, 4], [10**5, 10**5]])
@pytest.mark.parametrize("kind", ["weight", "constant", "external", "sparse"])
def test_a_weight_that_is_larger_than_its_data_is_refused(kind: str, dims: list[int], tmp_path: Path) -> None:
    nodes, tensors = ADD, [weight(dims)]
    (tmp_path / "weights.bin").write_bytes(bytes(64))
    model = graph(nodes, tensors)
    if kind == "external":
        model = graph(nodes, [weight(dims, "weights.bin")])
    elif kind == "constant":
        model = graph([helper.make_node("Constant", [], ["w"], value=weight(dims)), *ADD])
    elif kind == "sparse":
        model = graph(ADD)
        values = numpy_helper.from_array(np.ones(1, dtype=np.float32), "w")
        places = numpy_helper.from_array(np.zeros(1, dtype=np.int64), "i")
        sparse = model.graph.sparse_initializer.add(values=values, indices=places)
        sparse.dims.extend(dims)
    with pytest.raises(ModelError, match="declares a weight of the shape"):
        open_session(write(model, tmp_path))


GREEDY = {
    "constant": [helper.make_node("ConstantOfShape", ["size"], ["w"]), *ADD],
    "copies": [helper.make_node("Expand", ["waveform", "size"], ["w"]), *ADD],
    "tiles": [helper.make_node("Tile", ["waveform", "size"], ["w"]), *ADD],
    "range": [helper.make_node("Range", ["zero", "many", "step"], ["w"]), *ADD],
}
RUN_GREEDY = """
import resource, sys
from pathlib import Path
import numpy as np
from emodistill import ModelError, Recognizer
recognizer = Recognizer(Path(sys.argv[1]), threads=1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
resource.setrlimit(resource.RLIMIT_AS, (8 * 10**9, 8 * 10**9))
try:
    recognizer.student.run(np.ones(16000, dtype=np.float32))
except ModelError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("size", [2**31, 2**38])
@pytest.mark.parametrize("kind", GREEDY)
def test_a_graph_that_wants_more_memory_than_the_limit_gets_an_error(
    kind: str, size: int, tmp_path: Path
) -> None:
    sizes = {"constant": [size], "copies": [size // 8000, 8000], "tiles": [size // 8000, 1]}.get(kind, [1])
    numbers = {"size": sizes, "zero": 0, "many": size, "step": 1}
    tensors = [numpy_helper.from_array(np.array(value), name) for name, value in numbers.items()]
    nodes = GREEDY[kind]
    if kind == "range":
        nodes = [nodes[0], helper.make_node("Cast", ["w"], ["float"], to=TensorProto.FLOAT),
                 helper.make_node("ReduceMean", ["float"], ["mean"], keepdims=0), ADD[1]]  # fmt: skip
    folder = model_of(graph(nodes, tensors), tmp_path)
    environment = {**os.environ, MEMORY_VARIABLE: "300", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", RUN_GREEDY, str(folder)], env=environment, capture_output=True, text=True,
        timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *message, used_mb = done.stdout.strip().splitlines()
    assert "cannot be run" in message[0]
    assert int(used_mb) < 400


def model_of(model: onnx.ModelProto, folder: Path) -> Path:
    """The folder of an exported model with this graph, and a card that fits it."""
    model_without_voices(folder / "model")
    path = write(model, folder / "model")
    card = json.loads((folder / "model" / "card.json").read_text())
    card |= {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "teachers": []}
    (folder / "model" / "card.json").write_text(json.dumps(card))
    return folder / "model"


@pytest.mark.parametrize("limit", ["0", "-1", "much", "1e3"])
def test_a_bad_limit_of_the_memory_is_refused(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx_session.memory_limit.cache_clear()
    monkeypatch.setenv(MEMORY_VARIABLE, limit)
    with pytest.raises(EmodistillError, match=MEMORY_VARIABLE):
        onnx_session.memory_limit()
    monkeypatch.delenv(MEMORY_VARIABLE)
    onnx_session.memory_limit.cache_clear()
    assert onnx_session.memory_limit() > 10**8


SHAPES = {
    "no axis": [helper.make_node("ReduceMean", ["waveform"], ["probabilities"], keepdims=0)],
    "one axis": [helper.make_node("ReduceMean", ["waveform", "axis"], ["probabilities"], keepdims=0)],
    "whole numbers": [helper.make_node("Cast", ["waveform"], ["probabilities"], to=TensorProto.INT64)],
    "three axes": [helper.make_node("Unsqueeze", ["waveform", "axis"], ["probabilities"])],
    "no number": [helper.make_node("Log", ["waveform"], ["probabilities"])],
    "other rows": [helper.make_node("Concat", ["waveform", "waveform"], ["probabilities"], axis=0)],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_graph_with_outputs_of_another_shape_is_refused(shape: str, tmp_path: Path) -> None:
    model = graph(SHAPES[shape], [numpy_helper.from_array(np.array([1]), "axis")])
    if shape == "whole numbers":
        model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    with pytest.raises(ModelError):
        Recognizer(model_of(model, tmp_path), threads=1).student.run(SOUND)


@pytest.mark.parametrize("length", [2**63, 2**40, 200_000_000])
def test_a_safetensors_file_with_a_huge_header_is_refused(length: int, tmp_path: Path) -> None:
    from emodistill.models.checkpoint import load_checkpoint

    folder = teacher(tmp_path / "model")
    with (folder / "model.safetensors").open("wb") as file:
        file.write(length.to_bytes(8, "little"))
        file.truncate(min(length + 8, 2**30))
    with pytest.raises(ModelError, match="not a safetensors file"):
        Safetensors(folder / "model.safetensors")
    with pytest.raises(ModelError, match="cannot be read"):
        load_checkpoint(folder)


def test_a_small_checkpoint_never_builds_a_large_model(tmp_path: Path) -> None:
    from emodistill.labels import LabelSet
    from emodistill.models.checkpoint import load_checkpoint, save_checkpoint

    folder = tmp_path / "student"
    save_checkpoint(folder, make.student(_hubert()), LabelSet(make.EMOTIONS), ["a"])
    info = json.loads((folder / "model.json").read_text())
    for changed in ({"hidden_size": 65_536, "intermediate_size": 262_144}, {"num_hidden_layers": 10**9}):
        info["backbone"]["config"] |= changed
        (folder / "model.json").write_text(json.dumps(info))
        with pytest.raises(ModelError):
            load_checkpoint(folder)


def _hubert() -> Any:
    from emodistill.models.backbones import _FAMILY_OF

    config = make.hubert().config.to_dict()
    return _FAMILY_OF["hubert"].from_config(config, 1)


def test_a_description_that_unpacks_to_gigabytes_is_refused() -> None:
    bomb = pack_description({"training_ids": ["a" * (MAX_DESCRIPTION_BYTES + 1)]})
    assert len(bomb) < 10**6
    with pytest.raises(ModelError, match="unpacks to over"):
        read_description(bomb)
