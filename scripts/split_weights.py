"""Make a model of the package whose backbone's weights `emodistill fetch` adds, from an exported model.

    python scripts/split_weights.py EXPORTED --weights WHISPER -o src/emodistill/assets/large

EXPORTED is an exported student over frozen layers, in fp16 or int8. WHISPER is the folder of its backbone,
with `model.safetensors`. The new folder holds

- `model.onnx`, which reads the backbone's weights from `weights.bin`;
- `head.onnx`, if the model has voices;
- the card;
- `weights.json`, which lists the content of `weights.bin` (`emodistill/inference/fetch.py`).

The script finds a weight of the graph in the safetensors file by its values, rounded to float16. So it does
not matter whether the exporter renamed or transposed it. `docs/models.md` lists what the script refuses.
"""

import argparse
import hashlib
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from emodistill.audio.onnx_session import open_session
from emodistill.audio.waveform import SAMPLE_RATE
from emodistill.errors import EmodistillError, ModelError
from emodistill.export.quantize import store_in_fp16
from emodistill.inference.card_writer import write_card
from emodistill.inference.fetch import (
    ALIGNMENT,
    SOURCE_FILE,
    WEIGHT_LIST,
    Safetensors,
    Weight,
    WeightList,
    write_weights,
)
from emodistill.inference.model_card import (
    HEAD,
    METADATA,
    WEIGHTS,
    Card,
    ExternalWeights,
    file_sha256,
    pack_description,
    read_card,
    read_description,
)
from emodistill.models.mel import FFT_SAMPLES

MAX_BYTES = 1_000_000  # of the new folder
MIN_BYTES = 1024  # smaller arrays stay in the graph
MAX_UNKNOWN_BYTES = 32_768  # a larger array of the backbone must be in the safetensors file
# The largest difference of a probability, by precision. Int8 rounds its inputs, so a tiny change of an input
# may become one step of its scale.
TOLERANCE = {"fp16": 1e-3, "int8": 1e-2}
KERNELS, FILTERS = "mel.kernels", "mel.filters"  # ends of the names of the front-end's constants


def split_weights(exported: Path, weights: Path, out: Path, external: ExternalWeights) -> Card:
    """Write the folder `out` and return its card. Raises `ModelError` where the script refuses."""
    card = read_card(exported)
    if card.precision == "fp32":
        raise ModelError(f"'{exported}' is in fp32: export it again with --precision fp16 or int8")
    source = Safetensors(weights / SOURCE_FILE)
    with tempfile.TemporaryDirectory() as partial:
        folder = Path(partial) / out.name
        folder.mkdir()  # with the usual permissions
        model = _load(exported / "model.onnx", folder)
        _compute_kernels(model)
        listed = _move_weights(model, _index(source), source)
        _pack_description(model)
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        digest = write_weights(listed, source, folder / WEIGHTS, external.source, "weights")
        size = (folder / WEIGHTS).stat().st_size
        listed = listed.model_copy(update={"sha256": digest, "size_bytes": size})
        (folder / WEIGHT_LIST).write_text(_list_text(listed), encoding="utf-8")
        if card.voice_dim is not None:
            store_in_fp16(exported / HEAD, folder / HEAD)
            card = card.model_copy(update={"head_sha256": file_sha256(folder / HEAD)})
        card = card.model_copy(
            update={"external": external, "sha256": file_sha256(folder / "model.onnx", folder / WEIGHTS)}
        )
        write_card(card, folder)
        for graph in ("model.onnx", *([HEAD] if card.voice_dim is not None else [])):
            _check_same(exported / graph, folder / graph, TOLERANCE[card.precision])
        (folder / WEIGHTS).unlink()
        _check_size(folder, model)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(folder, out)
    return card


def _load(path: Path, folder: Path) -> onnx.ModelProto:
    """Return the graph of a model, with all its large matrices but the front-end's in float16 or int8."""
    names = [item.name for item in onnx.load(path).graph.initializer]
    exact = [name for name in names if name.endswith((KERNELS, FILTERS))]
    half = folder / "half.onnx"
    store_in_fp16(path, half, exact)
    model = onnx.load(half)
    half.unlink()
    return model


def _compute_kernels(model: onnx.ModelProto) -> None:
    """Let the graph compute the DFT's kernels (2 * bins, 1, taps), which ONNX Runtime does when it loads it.

    cos(2π k t / n) is a table of n values, read at k t modulo n, and -sin(x) = cos(x + π / 2).
    """
    graph = model.graph
    stored = next((item for item in graph.initializer if item.name.endswith(KERNELS)), None)
    if stored is None:
        return
    taps = FFT_SAMPLES
    phase = 2 * np.pi * np.arange(taps) / taps
    bins = np.arange(taps // 2 + 1)
    constants = {
        "dft_bins": np.concatenate([bins, bins])[:, None, None],
        "dft_time": np.arange(taps)[None, None],
        "dft_shift": np.repeat([0, taps // 4], len(bins))[:, None, None],
        "dft_taps": np.array(taps),
        "dft_cosine": np.cos(phase).astype(np.float32),
        "dft_window": (0.5 - 0.5 * np.cos(phase)).astype(np.float32),
    }
    index = (constants["dft_bins"] * constants["dft_time"] + constants["dft_shift"]) % taps
    values = constants["dft_cosine"][index] * constants["dft_window"]
    expected = numpy_helper.to_array(stored)
    if values.shape != expected.shape or np.abs(values - expected).max() > 1e-6:
        raise ModelError(f"'{stored.name}' is not the DFT of {taps} samples with a Hann window")
    nodes = [
        helper.make_node("Mul", ["dft_bins", "dft_time"], ["dft_product"]),
        helper.make_node("Add", ["dft_product", "dft_shift"], ["dft_shifted"]),
        helper.make_node("Mod", ["dft_shifted", "dft_taps"], ["dft_index"]),
        helper.make_node("Gather", ["dft_cosine", "dft_index"], ["dft_values"]),
        helper.make_node("Mul", ["dft_values", "dft_window"], [stored.name]),
    ]
    kept = [item for item in graph.initializer if item is not stored]
    kept += [numpy_helper.from_array(value, name) for name, value in constants.items()]
    nodes += graph.node
    for field, items in ((graph.initializer, kept), (graph.node, nodes)):
        del field[:]
        field.extend(items)


def _index(source: Safetensors) -> dict[bytes, tuple[str, tuple[int, ...]]]:
    """Return key and order of axes by the hash of the array that a graph may hold: in float16 or int8."""
    index: dict[bytes, tuple[str, tuple[int, ...]]] = {}
    for key in source.shapes:
        values = source.read(key)
        axes = tuple(range(values.ndim))
        for order in sorted({axes, axes[::-1]}):
            for dtype in ("float16", "int8") if values.ndim > 1 else ("float16",):
                weight = Weight(key=key, shape=values.shape, axes=order, dtype=dtype)
                index.setdefault(_hash(weight.convert(values)), (key, order))
    return index


def _hash(values: npt.NDArray[Any]) -> bytes:
    return hashlib.sha256(values.dtype.str.encode() + values.tobytes()).digest()


def _move_weights(
    model: onnx.ModelProto, index: Mapping[bytes, tuple[str, tuple[int, ...]]], source: Safetensors
) -> WeightList:
    """Replace weights of the backbone by references to `weights.bin`, and list its content.

    The hash and the size are not known yet.
    """
    found: dict[tuple[str, tuple[int, ...], str], list[TensorProto]] = {}
    for item in model.graph.initializer:
        values = numpy_helper.to_array(item)
        if values.nbytes < MIN_BYTES or values.min() == values.max():
            continue  # An array of one value is in every model.
        comparable = values if values.dtype == np.int8 else values.astype("<f2")
        if (match := index.get(_hash(comparable))) is not None:
            found.setdefault((*match, values.dtype.name), []).append(item)
        elif values.nbytes > MAX_UNKNOWN_BYTES and not _is_own(item.name):
            raise ModelError(
                f"the weight '{item.name}' {list(item.dims)} is not in '{source.path}'; is this the backbone "
                "of the model, and are all of its layers frozen?"
            )
    weights, end = [], 0
    for (key, axes, dtype), items in sorted(found.items(), key=lambda entry: str(entry[0])):
        offset = -(-end // ALIGNMENT) * ALIGNMENT
        for item in items:
            length = numpy_helper.to_array(item).nbytes
            _make_external(item, offset, length)
        end = offset + length
        weights.append(Weight(key=key, shape=source.shapes[key], axes=axes, dtype=dtype, offset=offset))
    return WeightList(sha256="", size_bytes=end, weights=tuple(weights))


def _is_own(name: str) -> bool:
    """Return whether an array is one of the head, or a constant of the front-end."""
    return name.endswith(FILTERS) or (
        name.startswith(("student.", "classifiers.", "dft_")) and not name.startswith("student.backbone.")
    )


def _make_external(item: TensorProto, offset: int, length: int) -> None:
    named = TensorProto(name=item.name, dims=item.dims, data_type=item.data_type)
    named.data_location = TensorProto.EXTERNAL
    for key, value in (("location", WEIGHTS), ("offset", offset), ("length", length)):
        named.external_data.add(key=key, value=str(value))
    item.CopyFrom(named)


def _pack_description(model: onnx.ModelProto) -> None:
    """Compress the description of the student, because it lists the ids of all training utterances."""
    for entry in model.metadata_props:
        if entry.key == METADATA:
            entry.value = pack_description(read_description(entry.value))


def _list_text(listed: WeightList) -> str:
    """Return `weights.json`, with one line for each weight."""
    head = listed.model_dump_json(exclude={"weights"})[:-1]
    rows = ",\n ".join(weight.model_dump_json() for weight in listed.weights)
    return f'{head},"weights":[\n {rows}\n]}}\n'


def _check_same(exported: Path, split: Path, tolerance: float) -> None:
    """Raise `ModelError` if two graphs give different probabilities for noise."""
    sessions = [open_session(path, threads=1) for path in (exported, split)]
    generator = np.random.default_rng(0)
    for length_s in (0.5, 1, 3):
        feed = {
            item.name: _noise(generator, 0.1, round(length_s * SAMPLE_RATE))
            if item.name == "waveform"
            else _noise(generator, 1, item.shape[1])
            for item in sessions[0].get_inputs()
        }
        before, after = (session.run(["probabilities"], feed)[0] for session in sessions)
        difference = float(np.abs(before - after).max())
        if not difference <= tolerance:
            raise ModelError(
                f"a probability differs by {difference:.1e} from that of '{exported}': at most "
                f"{tolerance:.0e} is allowed"
            )


def _noise(generator: np.random.Generator, rms: float, length: int) -> npt.NDArray[np.float32]:
    return generator.normal(0, rms, (1, length)).astype(np.float32)


def _check_size(folder: Path, model: onnx.ModelProto) -> None:
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    if sum(sizes.values()) > MAX_BYTES:
        largest = sorted(model.graph.initializer, key=lambda item: -item.ByteSize())[:4]
        names = ", ".join(f"{item.name} {item.ByteSize()}" for item in largest)
        raise ModelError(
            f"the folder has {sum(sizes.values())} bytes ({sizes}), at most {MAX_BYTES} are allowed. The "
            f"largest arrays in the graph: {names}. Lower student.embedding_dim or pool fewer layers"
        )


def main() -> int:
    """Run the script; 1 if it refuses."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("exported", type=Path, metavar="EXPORTED")
    parser.add_argument("--weights", type=Path, required=True, metavar="FOLDER", help="of the backbone")
    parser.add_argument("--out", "-o", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--source", default="openai/whisper-base", help="the backbone on the hub")
    parser.add_argument(
        "--licence", default="MIT (OpenAI)", help="of the backbone's weights, with their owner"
    )
    options = parser.parse_args()
    external = ExternalWeights(source=options.source, licence=options.licence)
    try:
        card = split_weights(options.exported, options.weights, options.out, external)
    except EmodistillError as error:
        print(error, file=sys.stderr)
        return 1
    size = sum(path.stat().st_size for path in options.out.iterdir())
    print(f"{options.out}: {size} bytes, {card.precision}, SHA-256 {card.sha256}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
