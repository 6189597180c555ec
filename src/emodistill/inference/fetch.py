"""Models that the package ships without the weights of their backbone, and how `emodistill fetch` adds them.

Such a model is a folder in `assets`: `model.onnx`, which reads most of its weights from `weights.bin`; the
card; and `weights.json`, which lists the content of `weights.bin`. `fetch` makes `weights.bin` from published
weights (safetensors) with NumPy alone, and checks its SHA-256. The complete model is then in the cache.
"""

import hashlib
import math
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from emodistill.cached_files import MODELS, mark_used
from emodistill.console import say, with_progress
from emodistill.errors import ConfigError, ModelError
from emodistill.files import cache_folder
from emodistill.inference.hub import download_file
from emodistill.inference.model_card import (
    BUNDLED,
    WEIGHTS,
    Card,
    licence_text,
    read_card,
    read_unchecked_card,
)
from emodistill.partial_folders import atomic_folder, partial_folder
from emodistill.reading import parse_json

ASSETS = BUNDLED.parent
WEIGHT_LIST = "weights.json"
SOURCE_FILE = "model.safetensors"
ALIGNMENT = 64  # bytes; every array of weights.bin starts at a multiple of it
INT8 = "-int8"  # ends the name of the int8 variant of a model, which is fetched with it
_PREFIXES = ("model.encoder.", "encoder.")  # of keys; a file with an encoder alone has none
MAX_HEADER_BYTES = 100_000_000  # of a safetensors file; the library has the same limit
_DTYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}  # of safetensors -> NumPy

Array = npt.NDArray[Any]


class Weight(BaseModel):
    """One array of `weights.bin`, and how it is computed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str  # in the safetensors file, without its prefix
    shape: tuple[int, ...]  # in the safetensors file
    axes: tuple[int, ...]  # the order of these axes in weights.bin
    dtype: Literal["float16", "float32", "int8"]  # in weights.bin; int8: the codes of `quantise_columns`
    offset: int = 0  # in bytes

    def convert(self, values: Array) -> Array:
        """Return the array of `weights.bin` for the values (shape) of the safetensors file.

        Values are rounded to float16 first, so that files in float32 and in float16 give the same array.
        """
        with np.errstate(over="ignore"):  # The hash of the file shows it.
            half = values.astype("<f2").transpose(self.axes)
        if self.dtype == "int8":
            return quantise_columns(half.astype(np.float32).reshape(-1, half.shape[-1]))[0]
        return half.astype("<f2" if self.dtype == "float16" else "<f4")


class WeightList(BaseModel):
    """The content of `weights.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    sha256: str  # of weights.bin
    size_bytes: int  # of weights.bin
    weights: tuple[Weight, ...]  # by rising offset; the bytes between two arrays are zero


def quantise_columns(weight: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Return int8 codes (in, out) and scales (out,) of a weight (in, out): symmetric, a scale per column."""
    scale = np.abs(weight).max(axis=0) / 127
    scale[scale == 0] = 1
    return np.rint(weight / scale).astype(np.int8), scale.astype(np.float32)


class _Entry(NamedTuple):
    """An array of a safetensors file: its bytes are counted from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class Safetensors:
    """The arrays of an encoder in a safetensors file, read one at a time, by key without the prefix.

    The file begins with the length of its header (8 bytes, little-endian). The header is JSON: key ->
    dtype, shape, data_offsets. Raises `ModelError` for a
    file that is not complete or not of this kind.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = file.read(length) if length <= min(size - 8, MAX_HEADER_BYTES) else b""
        try:
            entries = {
                str(key): _Entry(
                    item["dtype"], tuple(map(int, item["shape"])), *map(int, item["data_offsets"])
                )
                for key, item in parse_json(header).items()
                if key != "__metadata__"
            }
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ModelError(
                f"'{path}' is not a safetensors file, or is not complete ({size} bytes): download it again"
            ) from error
        expected = 8 + length + max((entry.end for entry in entries.values()), default=0)
        if expected > size:
            raise ModelError(
                f"'{path}' is not complete: expected {expected} bytes, it has {size}; download it again"
            )
        self._start = 8 + length
        prefix = next((item for item in _PREFIXES if any(key.startswith(item) for key in entries)), "")
        self._entries = {
            key.removeprefix(prefix): entry for key, entry in entries.items() if key.startswith(prefix)
        }

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the arrays by key."""
        return {key: entry.shape for key, entry in self._entries.items()}

    def read(self, key: str) -> Array:
        """Return an array. Raises `ModelError` for a type of numbers other than F16, F32 and F64."""
        entry = self._entries[key]
        if entry.dtype not in _DTYPES:
            raise ModelError(
                f"'{self.path}' stores '{key}' as {entry.dtype}: expected one of {list(_DTYPES)}"
            )
        dtype = np.dtype(_DTYPES[entry.dtype])
        expected = dtype.itemsize * math.prod(entry.shape)
        if min(entry.shape, default=0) < 0 or entry.end - entry.start != expected:
            raise ModelError(f"'{self.path}' is damaged at '{key}': download it again")
        with self.path.open("rb") as file:
            file.seek(self._start + entry.start)
            data = file.read(entry.end - entry.start)
        return np.frombuffer(data, dtype).reshape(entry.shape)


def fetchable_models() -> list[str]:
    """Return the names of the models whose weights `fetch` adds, sorted."""
    return sorted(path.parent.name for path in ASSETS.glob(f"*/{WEIGHT_LIST}"))


def package_folder(model: str | Path) -> Path | None:
    """Return the folder of the bundled model or of a fetched one; None for a model of another name.

    Raises `ModelError` if the model is not there.
    """
    if model == "bundled":
        if not BUNDLED.is_dir():
            raise ModelError("this install has no bundled model; give the folder of an exported model")
        return BUNDLED
    return fetched_folder(str(model)) if model in fetchable_models() else None


def fetched_path(name: str) -> Path:
    """Return the folder in the cache for a fetchable model, which exists once it is fetched.

    Its name has the hash of the model, so another version of the package never reads it.
    """
    card = read_unchecked_card(ASSETS / name)
    return cache_folder() / MODELS / f"{name}-{card.sha256[:12]}"


def fetched_folder(name: str) -> Path:
    """Return the folder of a fetched model. Raises `ModelError` if it is not fetched yet."""
    folder = fetched_path(name)
    if not folder.is_dir():
        raise ModelError(
            f"the model '{name}' is not fetched yet: run 'emodistill fetch {name.removesuffix(INT8)}' once"
        )
    mark_used(folder / "card.json")
    return folder


def fetch_model(name: str, weights: Path | None = None, revision: str = "main") -> dict[str, Path]:
    """Complete a model of the package with published weights; returns the folders by the model's name.

    Its int8 variant is made in the same step. Models that are complete already are kept. The first message
    is the licence of the weights.

    Args:
        name: one of `fetchable_models`, e.g. "large".
        weights: a folder with `model.safetensors`, or that file; None: download it from the hub.
        revision: branch, tag or commit of the download.

    Raises:
        ConfigError: the package has no such model.
        ModelError: the weights cannot be downloaded or read, or differ from those of the model.
        MissingExtraError: a download without [hub].
    """
    names = fetchable_models()
    if name not in names:
        others = f": expected one of {names}" if names else "; it has none"
        raise ConfigError(f"this install has no model '{name}' to fetch{others}")
    wanted = [name, *([name + INT8] if name + INT8 in names else [])]
    cards = {model: read_unchecked_card(ASSETS / model) for model in wanted}
    say(licence_text(cards[name]))
    missing = [model for model in wanted if not _is_complete(fetched_path(model))]
    if missing:
        source = Safetensors(_source_file(cards[name], weights, revision))
        for model in missing:
            _assemble(model, source, _source_name(cards[model]))
    return {model: fetched_path(model) for model in wanted}


def _is_complete(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    try:
        read_card(folder)
    except ModelError:
        return False
    return True


def _source_name(card: Card) -> str:
    assert card.external is not None
    return card.external.source


def _source_file(card: Card, weights: Path | None, revision: str) -> Path:
    """Return the safetensors file, downloaded if no folder is given."""
    source = _source_name(card)
    if weights is None:
        say(f"downloading {SOURCE_FILE} of {source}, revision {revision}, from the Hugging Face Hub")
        return download_file(source, SOURCE_FILE, revision)
    path = weights / SOURCE_FILE if weights.is_dir() else weights
    if not path.is_file():
        raise ModelError(f"no file '{path}': expected the folder of {source}, with {SOURCE_FILE}")
    return path


def _assemble(name: str, source: Safetensors, source_name: str) -> None:
    """Write the complete model into the cache. Its folder appears complete or not at all."""
    listed = weight_list(name)
    target = fetched_path(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    if _is_complete(target):  # by another process meanwhile
        return
    if target.exists():  # It is damaged.
        with partial_folder(target.with_name(f"{target.name}-damaged")) as damaged:
            target.rename(damaged / target.name)
    # Another process may complete it first.
    with suppress(FileExistsError), atomic_folder(target) as folder:
        for path in (ASSETS / name).iterdir():
            if path.name != WEIGHT_LIST:
                shutil.copyfile(path, folder / path.name)
        digest = write_weights(listed, source, folder / WEIGHTS, source_name, name)
        if digest != listed.sha256:
            raise ModelError(
                f"the weights of '{source.path}' differ from those that '{name}' was made with: SHA-256 "
                f"{digest[:12]}…, expected {listed.sha256[:12]}…. Use {source_name}, revision main. "
                "Nothing was written."
            )
        read_card(folder)


def weight_list(name: str) -> WeightList:
    """Return the content of a fetchable model's `weights.json`. Raises `ModelError` if it is damaged."""
    path = ASSETS / name / WEIGHT_LIST
    try:
        return WeightList.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise ModelError(f"'{path}' is damaged: install emodistill again") from error


def write_weights(
    listed: WeightList, source: Safetensors, path: Path, source_name: str, description: str
) -> str:
    """Write `weights.bin` from published weights, and return its SHA-256.

    A progress bar shows `description`. Raises `ModelError` if a weight is missing or has another shape: then
    the file is that of another model.
    """
    for weight in listed.weights:
        shape = source.shapes.get(weight.key)
        if shape != weight.shape:
            found = "is missing" if shape is None else f"has the shape {list(shape)}"
            raise ModelError(
                f"'{source.path}' is not the file of {source_name}: its weight '{weight.key}' {found}, "
                f"expected the shape {list(weight.shape)}"
            )
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for weight in with_progress(listed.weights, description, len(listed.weights)):
            values = weight.convert(source.read(weight.key))
            data = bytes(weight.offset - file.tell()) + values.tobytes()
            digest.update(data)
            file.write(data)
    return digest.hexdigest()
