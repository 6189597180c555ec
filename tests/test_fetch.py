"""`emodistill fetch`: models whose weights are completed from published ones, and the script that makes them.

The published weights are those of a tiny Whisper; tests on the real Whisper-base need EMODISTILL_DATA.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import factories as make
import numpy as np
import onnx
import pytest
from factories_scripts import load_script
from safetensors.numpy import load_file, save_file
from test_hub import Hub, python
from typer.testing import CliRunner

from emodistill import Recognizer, cli
from emodistill.corpora import read_manifest
from emodistill.errors import ConfigError, MissingExtraError, ModelError
from emodistill.export.exporter import export_checkpoint
from emodistill.export.onnx import OnnxStudent, write_onnx
from emodistill.export.quantize import quantise_to_int8, store_in_fp16
from emodistill.inference import fetch
from emodistill.inference.card_writer import card_markdown, write_card
from emodistill.inference.fetch import (
    SOURCE_FILE,
    Safetensors,
    fetch_model,
    fetchable_models,
    fetched_path,
    weight_list,
)
from emodistill.inference.model_card import WEIGHTS, Card, ExternalWeights, file_sha256, read_card
from emodistill.labels import LabelSet
from emodistill.models.backbones import load_backbone
from emodistill.models.checkpoint import describe_model, read_exported, save_checkpoint
from emodistill.serving.static_page import export_web

split = load_script("split_weights")
EXTERNAL = ExternalWeights(source="voices/tiny-whisper", licence="MIT (their owner)")
LICENCE = "The head: for non-commercial use."
EMOTIONS = ("angry", "happy", "sad", "neutral")
WAVES = [make.speech(length_s, 120 + 30 * i, seed=i) for i, length_s in enumerate((0.4, 1.3, 3.0))]
WHISPER_BASE = make.DATA / "models" / "whisper-base"


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny Whisper in float16, as the published weights."""
    folder = tmp_path_factory.mktemp("whisper")
    make.with_random_weights(make.whisper_encoder()).half().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def originals(whisper: Path, manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Exported students over the tiny Whisper, all of it frozen: in fp32, fp16 and int8."""
    root = tmp_path_factory.mktemp("originals")
    student = make.student(load_backbone(str(whisper), 2), frozen=2, pool=(1, 2))
    student.has_voices = True
    save_checkpoint(root / "student", student, LabelSet(EMOTIONS), ["a", "b"], ["c"])
    folders = {precision: root / precision for precision in ("fp32", "fp16", "int8")}
    texts = {"licence": LICENCE, "name": "tiny"}
    card = export_checkpoint(root / "student", folders["fp32"], read_manifest(manifest), card=texts)
    front_end = {name for name, _ in OnnxStudent(student, {}).named_buffers()}
    for precision, convert in (("fp16", store_in_fp16), ("int8", quantise_to_int8)):
        shutil.copytree(folders["fp32"], folders[precision])
        graph = folders[precision] / "model.onnx"
        convert(folders["fp32"] / "model.onnx", graph, front_end)
        changes = {"precision": precision, "sha256": file_sha256(graph)}
        write_card(card.model_copy(update=changes), folders[precision])
    return folders


@pytest.fixture(scope="module")
def shipped(whisper: Path, originals: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models `tiny` and `tiny-int8` as the package would hold them."""
    assets = tmp_path_factory.mktemp("assets")
    for name, precision in (("tiny", "fp16"), ("tiny-int8", "int8")):
        split.split_weights(originals[precision], whisper, assets / name, EXTERNAL)
    return assets


@pytest.fixture
def assets(shipped: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> Path:
    """The shipped models in a package of this test, with an empty cache."""
    monkeypatch.setattr(fetch, "ASSETS", shipped)
    return shipped


def call(*arguments: object) -> Any:
    return CliRunner().invoke(cli.app, list(map(str, arguments)))


def cached() -> list[str]:
    folder = fetch.cache_folder() / "models"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


@pytest.mark.parametrize("prefix", ["", "encoder.", "model.encoder."])
@pytest.mark.parametrize("dtype", ["f2", "f4"])
def test_a_fetched_model_gives_the_answers_of_the_exported_one(
    prefix: str, dtype: str, assets: Path, originals: Mapping[str, Path], whisper: Path, tmp_path: Path
) -> None:
    encoder = {
        f"{prefix}{key}": value.astype(dtype) for key, value in load_file(whisper / SOURCE_FILE).items()
    }
    decoder = {} if prefix == "" else {"model.decoder.embed_tokens.weight": np.zeros((9, 32), np.float32)}
    save_file({**encoder, **decoder}, tmp_path / SOURCE_FILE)
    folders = fetch_model("tiny", tmp_path)
    assert folders == {name: fetched_path(name) for name in ("tiny", "tiny-int8")}
    for name, precision, tolerance in (("tiny", "fp16", 1e-3), ("tiny-int8", "int8", 1e-2)):
        fetched, exported = Recognizer(name), Recognizer(originals[precision])
        assert fetched.folder == folders[name]
        assert fetched.known_ids == exported.known_ids == {"a", "b", "c"}
        for wave in WAVES:
            outputs = fetched.run(wave)
            for output, value in exported.run(wave).items():
                if precision == "int8" and output != "probabilities":
                    continue  # Int8 rounds its inputs, so other outputs differ by a step of their scale.
                np.testing.assert_allclose(outputs[output], value, atol=tolerance, err_msg=output)
        ours, theirs = (
            model.predict(WAVES[2], make.RATE, voice=model.enrol(WAVES[:2], make.RATE)).probabilities
            for model in (fetched, exported)
        )
        assert ours == pytest.approx(theirs, abs=tolerance)
        package_bytes = sum(path.stat().st_size for path in (assets / name).iterdir())
        assert package_bytes < 0.3 * (originals[precision] / "model.onnx").stat().st_size
    assert (folders["tiny-int8"] / WEIGHTS).stat().st_size < (folders["tiny"] / WEIGHTS).stat().st_size


def test_every_matrix_of_the_backbone_is_external(shipped: Path) -> None:
    for name in ("tiny", "tiny-int8"):
        inside = [
            item.name
            for item in onnx.load(shipped / name / "model.onnx", load_external_data=False).graph.initializer
            if item.name.startswith("student.backbone.") and len(item.dims) > 1
            and item.data_location != onnx.TensorProto.EXTERNAL
        ]  # fmt: skip
        assert inside == ["student.backbone.mel.filters"]
        assert not (shipped / name / WEIGHTS).exists()


def test_the_weights_of_a_fetched_model_can_be_trained_further(
    assets: Path, whisper: Path, originals: Mapping[str, Path]
) -> None:
    folder = fetch_model("tiny", whisper)["tiny"]
    ours, theirs = (read_exported(item).model.state_dict() for item in (folder, originals["fp16"]))
    assert all(np.array_equal(ours[name], value) for name, value in theirs.items())


def test_fetching_needs_neither_torch_nor_onnx(assets: Path, whisper: Path, own_cache: Path) -> None:
    code = f"""
import sys
for name in ("torch", "onnx", "safetensors", "transformers", "huggingface_hub"):
    sys.modules[name] = None
from pathlib import Path
from emodistill.inference import fetch
fetch.ASSETS = Path({str(assets)!r})
fetch.fetch_model("tiny", Path({str(whisper)!r}))
from emodistill import Recognizer
print(Recognizer("tiny").card.name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "tiny\n"), done.stderr


def test_a_model_that_is_not_fetched_is_an_error_that_names_the_command(assets: Path) -> None:
    for name in ("tiny", "tiny-int8"):
        with pytest.raises(
            ModelError, match=f"'{name}' is not fetched yet: run 'emodistill fetch tiny' once"
        ):
            Recognizer(name)
    with pytest.raises(ModelError, match=r"has no weights\.bin, the weights of voices/tiny-whisper: run"):
        Recognizer(assets / "tiny")
    with pytest.raises(ModelError, match="no model 'tinny': expected bundled, tiny, tiny-int8, the folder"):
        Recognizer("tinny")


def test_an_unknown_model_is_an_error(
    assets: Path, whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ConfigError, match=r"no model 'large' to fetch: expected one of \['tiny', 'tiny-int8'\]"
    ):
        fetch_model("large", whisper)
    monkeypatch.setattr(fetch, "ASSETS", tmp_path)
    with pytest.raises(ConfigError, match="this install has no model 'large' to fetch; it has none"):
        fetch_model("large", whisper)


def edit(folder: Path, changes: Mapping[str, Any], out: Path) -> Path:
    """Save the weights of a folder with changed arrays (None: without) in another folder."""
    weights = {**load_file(folder / SOURCE_FILE), **changes}
    out.mkdir()
    save_file({key: value for key, value in weights.items() if value is not None}, out / SOURCE_FILE)
    return out


def test_weights_that_do_not_fit_leave_nothing_behind(assets: Path, whisper: Path, tmp_path: Path) -> None:
    first = np.array(load_file(whisper / SOURCE_FILE)["conv1.weight"])
    (tmp_path / "empty").mkdir()
    data = (whisper / SOURCE_FILE).read_bytes()
    for name, content in (
        ("cut", data[:-1000]),
        ("head", data[:100]),
        ("text", b"this is no model"),
        ("0", b""),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / SOURCE_FILE).write_bytes(content)
    other = np.array(first)
    other[0, 0, 0] += 1
    header = json.dumps({"conv1.weight": {"dtype": "BF16"}}).encode()
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / SOURCE_FILE).write_bytes(len(header).to_bytes(8, "little") + header)
    cases = {
        tmp_path
        / "nowhere": "no file '.*nowhere': expected the folder of voices/tiny-whisper, with model.safe",
        tmp_path / "empty": "no file '.*model.safetensors': expected the folder of voices/tiny-whisper",
        tmp_path / "cut": rf"not complete: expected {len(data)} bytes, it has {len(data) - 1000}; download",
        tmp_path / "head": r"not a safetensors file, or is not complete \(100 bytes\): download it again",
        tmp_path / "text": "is not a safetensors file, or is not complete",
        tmp_path / "0": "is not a safetensors file, or is not complete",
        tmp_path / "keys": "is not a safetensors file, or is not complete",
        edit(whisper, {"conv1.weight": first[:, :40].copy()}, tmp_path / "shape"): (
            r"is not the file of voices/tiny-whisper: its weight 'conv1.weight' has the shape \[32, 40, 3\], "
            r"expected the shape \[32, 80, 3\]"
        ),
        edit(whisper, {"conv1.weight": None}, tmp_path / "key"): "its weight 'conv1.weight' is missing",
        edit(whisper, {"conv1.weight": other}, tmp_path / "changed"): (
            "differ from those that 'tiny' was made with: SHA-256 .*, expected .*Nothing was written"
        ),
        edit(whisper, {"conv1.weight": first.astype(np.int16)}, tmp_path / "dtype"): (
            r"stores 'conv1.weight' as I16: expected one of \['F16', 'F32', 'F64'\]"
        ),
    }
    for folder, message in cases.items():
        with pytest.raises(ModelError, match=message):
            fetch_model("tiny", folder)
        assert cached() == [], folder


def test_a_damaged_model_is_refused_and_fetched_again(assets: Path, whisper: Path) -> None:
    weights = fetch_model("tiny", whisper)["tiny"] / WEIGHTS
    before = weights.stat().st_mtime_ns
    fetch_model("tiny", whisper / "nowhere")  # It is complete, so no weights are read.
    assert weights.stat().st_mtime_ns == before
    data = bytearray(weights.read_bytes())
    data[100] ^= 1
    weights.write_bytes(data)
    with pytest.raises(
        ModelError, match=r"model.onnx' or '.*weights.bin' was changed: .* fetch the model again"
    ):
        Recognizer("tiny")
    fetch_model("tiny", whisper)
    assert Recognizer("tiny").card == read_card(weights.parent)
    weights.unlink()
    fetch_model("tiny", whisper)
    assert len(cached()) == 2


def test_without_the_network_or_the_extra_the_message_helps(
    assets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    message = "'voices/tiny-whisper', revision 'v1', could not be downloaded .*or give a folder that holds it"
    with pytest.raises(ModelError, match=message):
        fetch_model("tiny", revision="v1")
    printed = " ".join(capsys.readouterr().err.split())
    assert printed.startswith(LICENCE), "the licence comes first"
    assert "downloading model.safetensors of voices/tiny-whisper, revision v1" in printed
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"the download of 'voices/tiny-whisper' .*emodistill\[hub\]"):
        fetch_model("tiny")
    assert cached() == []


def test_weights_are_downloaded_from_the_hub(assets: Path, whisper: Path, tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from emodistill.inference import fetch
fetch.ASSETS = Path({str(assets)!r})
print(*fetch.fetch_model("tiny", revision="v1"))
"""
    with Hub() as hub:
        hub.repositories["voices/tiny-whisper"] = {SOURCE_FILE: (whisper / SOURCE_FILE).read_bytes()}
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        done = python(code, tmp_path, hub.url)
        hub.shutdown()
    assert (done.returncode, done.stdout) == (0, "tiny tiny-int8\n"), done.stderr
    assert any("/resolve/v1/" in request for request in hub.requests)
    assert Recognizer("tiny-int8").predict(WAVES[1], make.RATE).probabilities


def test_the_command_line_fetches_lists_and_uses_the_model(
    assets: Path, whisper: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def row_of(model: str) -> dict[str, Any]:
        listed = call("models", "--format", "json")
        assert listed.exit_code == 0
        (row,) = [row for row in json.loads(listed.stdout) if row["model"] == model]
        return dict(row)

    before = row_of("tiny")
    assert "not fetched" in call("models").stdout
    done = call("fetch", "tiny", "--weights", whisper)
    printed = " ".join(done.stderr.split())
    assert done.exit_code == 0
    assert printed.startswith(f"{LICENCE} The weights of the backbone are those of voices/tiny-whisper: MIT")
    assert "to use it: --model tiny-int8" in printed
    assert {**before, "fetched": True} == row_of("tiny")
    assert before["fetched"] is False
    assert before["licence"].startswith(LICENCE)
    audio = next(manifest.parent.glob("*.wav"))
    answered = call("predict", audio, "--model", "tiny", "--format", "json")
    assert answered.exit_code == 0
    with pytest.raises(ModelError, match="'tiny' reads weights from a second file, which the page cannot"):
        export_web("tiny", tmp_path / "page")


def test_the_card_begins_with_the_licence(shipped: Path) -> None:
    text = (shipped / "tiny" / "README.md").read_text(encoding="utf-8")
    sections = [line for line in text.splitlines() if line.startswith("## ")]
    assert sections[0] == "## Licence"
    assert sections.count("## Licence") == 1
    assert f"{LICENCE} The weights of the backbone are those of voices/tiny-whisper: MIT" in text


def test_the_script_refuses_what_it_cannot_split(
    originals: Mapping[str, Path], whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with pytest.raises(ModelError, match="is in fp32: export it again with --precision fp16 or int8"):
        split.split_weights(originals["fp32"], whisper, out, EXTERNAL)
    weight = load_file(whisper / SOURCE_FILE)["conv2.weight"]
    changed = edit(whisper, {"conv2.weight": weight + np.float16(0.5)}, tmp_path / "changed")
    with monkeypatch.context() as patch:
        patch.setattr(split, "MAX_UNKNOWN_BYTES", 4096)
        message = r"'student.backbone.conv2.weight' \[32, 32, 3\] is not in '.*safetensors'"
        with pytest.raises(ModelError, match=message):
            split.split_weights(originals["fp16"], changed, out, EXTERNAL)
    monkeypatch.setattr(split, "MAX_BYTES", 1000)
    with pytest.raises(
        ModelError, match=r"the folder has \d+ bytes .* at most 1000 are allowed. The largest"
    ):
        split.split_weights(originals["fp16"], whisper, out, EXTERNAL)
    assert not out.exists()


@pytest.mark.parametrize("name", fetchable_models())
def test_a_shipped_model_is_small_and_states_both_licences(name: str) -> None:
    folder = fetch.ASSETS / name
    card = Card.model_validate_json((folder / "card.json").read_text(encoding="utf-8"))
    assert sum(path.stat().st_size for path in folder.iterdir()) <= split.MAX_BYTES
    assert card.external is not None
    assert "MIT" in card.external.licence
    assert "non-commercial" in card.licence
    assert (folder / "README.md").read_text(encoding="utf-8") == card_markdown(card)
    assert weight_list(name).weights


@pytest.mark.parametrize("name", fetchable_models())
def test_a_shipped_model_runs_after_it_is_fetched(name: str, own_cache: Path) -> None:
    if not WHISPER_BASE.is_dir():
        pytest.skip("no Whisper-base in EMODISTILL_DATA")
    fetch_model(name, WHISPER_BASE)
    assert Recognizer(name).predict(WAVES[2], make.RATE).probabilities


def test_a_student_over_whisper_base_is_split_and_fetched(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not WHISPER_BASE.is_dir():
        pytest.skip("no Whisper-base in EMODISTILL_DATA")
    student = make.student(load_backbone(str(WHISPER_BASE), 2), frozen=2, pool=(1, 2), embedding_dim=32)
    exported = tmp_path / "exported"
    exported.mkdir()
    full = tmp_path / "full.onnx"
    model = OnnxStudent(student, {}).eval()
    write_onnx(model, full, describe_model(student, LabelSet(EMOTIONS), ["a"]))
    store_in_fp16(full, exported / "model.onnx", {name for name, _ in model.named_buffers()})
    card = Card(
        name="base", emotions=EMOTIONS, trim_db=None, sha256=file_sha256(exported / "model.onnx"),
        precision="fp16", teachers=("prosodic", "linguistic"), backbone="openai/whisper-base",
        num_parameters=1, corpus="none", protocol="", fold="", scores={}, parity={}, versions={},
    )  # fmt: skip
    write_card(card, exported)
    source = ExternalWeights(source="openai/whisper-base", licence="MIT (OpenAI)")
    split.split_weights(exported, WHISPER_BASE, tmp_path / "assets" / "large", source)
    monkeypatch.setattr(fetch, "ASSETS", tmp_path / "assets")
    with pytest.raises(ModelError, match="is not the file of openai/whisper-base: its weight 'conv1"):
        fetch_model("large", make.DATA / "models" / "whisper-tiny")
    fetch_model("large", WHISPER_BASE)
    fetched, original = Recognizer("large"), Recognizer(exported)
    for wave in WAVES:
        np.testing.assert_allclose(
            fetched.run(wave)["probabilities"], original.run(wave)["probabilities"], atol=1e-3
        )
    keys = Safetensors(WHISPER_BASE / SOURCE_FILE).shapes
    assert {weight.key for weight in weight_list("large").weights} <= set(keys)
    assert os.environ["HF_HUB_OFFLINE"] == "1"


@pytest.mark.skipif(not WHISPER_BASE.is_dir(), reason="Whisper-base is not here")
def test_whisper_base_completes_the_model_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMODISTILL_CACHE", str(tmp_path))
    assert list(fetchable_models()) == ["large"]
    fetch_model("large", WHISPER_BASE)
    large = Recognizer("large")
    assert large.card.backbone == "openai/whisper-base"
    assert "non-commercial" in large.card.licence
    call = str(files("emodistill") / "demo" / "call.ogg")
    voice = large.enrol(call)
    plain, compared = large.predict(call), large.predict(call, voice=voice)
    assert plain.emotion in large.emotions
    assert compared.probabilities != plain.probabilities
    with pytest.raises(ModelError, match="enrol the speaker again with this model"):
        Recognizer("bundled").predict(call, voice=voice)


def test_a_plain_model_ignores_another_file_named_like_weights(
    originals: Mapping[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(originals["fp16"], tmp_path / "model")
    (tmp_path / "model" / WEIGHTS).write_bytes(b"notes")
    assert Recognizer(tmp_path / "model").card.external is None
