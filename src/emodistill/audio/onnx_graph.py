"""What an ONNX file declares, checked before ONNX Runtime opens it. The file may be that of a stranger.

The base install has no package `onnx`, so this module reads the parts of the protobuf that it needs. The
numbers of the fields are those of `onnx.proto`.
"""

import math
import mmap
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NoReturn

from emodistill.errors import ModelError

# Domains whose operators are part of every ONNX Runtime.
DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc")
_DOMAIN_NAMES = {"ai.onnx": ""}  # two names of one domain
ENDLESS = ("Loop", "Scan")  # operators whose rounds nothing bounds
MAX_DEPTH = 16  # of graphs in graphs
MAX_FUNCTION_NODES = 20_000  # that functions add to the graph, with their calls, which are written out
MAX_FUNCTION_DEPTH = 100  # of functions in functions
VALUES_PER_BYTE = 8  # at most, in the data of a tensor; the smallest types have two bits
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # kinds of fields
_MODEL_GRAPH, _MODEL_FUNCTION = 7, 25
_FUNCTION_NAME, _FUNCTION_NODE, _FUNCTION_DOMAIN, _FUNCTION_DEFAULT, _FUNCTION_OVERLOAD = 1, 7, 10, 11, 13
_FUNCTION_TYPE = 12
_GRAPH_NODE, _GRAPH_TENSOR, _GRAPH_SPARSE, _GRAPH_TYPES = 1, 5, 15, (11, 12, 13)
_VALUE_TYPE = 2
_TYPE_TENSORS, _TYPE_OTHERS = (1, 8), (4, 5, 9)  # of sequences, maps and optional values
_NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN, _NODE_OVERLOAD = 4, 5, 7, 8
_ATTRIBUTE_NAME, _ATTRIBUTE_INTEGER, _ATTRIBUTE_TEXT, _ATTRIBUTE_TEXTS, _ATTRIBUTE_REFERENCE = 1, 3, 4, 9, 21
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE = (5, 10), (6, 11), (22, 23)
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_TEXTS, _TENSOR_EXTERNAL = 1, 2, 6, 13
TEXT_TYPE = 8  # of tensors; the limit of memory does not cover their values
_TEXT_VALUES = ("value_string", "value_strings", "default_string")  # attributes that give a tensor of texts
_TEXT_OPTIONS = ("activations",)  # attributes with several texts that give none
TEXT_OPERATORS = (  # that take or make texts
    "CastMap", "CategoryMapper", "DictVectorizer", "LabelEncoder", "RegexFullMatch", "StringConcat",
    "StringNormalizer", "StringSplit", "TfIdfVectorizer", "Tokenizer", "WordConvEmbedding",
)  # fmt: skip
_SPARSE_VALUES, _SPARSE_INDICES, _SPARSE_DIMS = 1, 2, 3

Field = tuple[int, int | memoryview]  # its number, its value
Function = str  # its domain, its name and its overload, joined as ONNX Runtime joins them


@dataclass(frozen=True)
class _Check:
    """The check of one file."""

    name: str  # of the model, in messages
    path: Path | None  # of the file, whose folder may hold external data; None: there may be none
    domains: set[str] = field(default_factory=lambda: set(DOMAINS))  # with those of the model's own functions
    called: list[Function] = field(default_factory=list)  # by the nodes that were read, in subgraphs too
    casts: set[str] = field(default_factory=set)  # attributes of functions that a Cast takes its type from
    passed: list[tuple[str, str]] = field(default_factory=list)  # (attribute, that of the function around)
    texts: set[str] = field(default_factory=set)  # attributes with the number of the type of texts

    def model(self, content: memoryview) -> None:
        fields = [item for item in _fields(content) if item[0] in (_MODEL_GRAPH, _MODEL_FUNCTION)]
        functions = [_message(value) for number, value in fields if number == _MODEL_FUNCTION]
        for function in functions:
            self.domains.update(_texts(function, _FUNCTION_DOMAIN))
        bodies: dict[Function, Counter[Function]] = {}
        for function in functions:
            for number, value in _fields(function):
                if number == _FUNCTION_NODE:
                    self._node(_message(value), 1)
                elif number == _FUNCTION_DEFAULT:
                    self._attribute(_message(value), "", 1)
                elif number == _FUNCTION_TYPE:
                    self._value(_message(value))
            bodies[_function(function)] = self._take_called()
        for number, value in fields:
            if number == _MODEL_GRAPH:
                self._graph(_message(value), 0)
        self._check_functions(bodies, self._take_called())
        self._check_casts()

    def _take_called(self) -> Counter[Function]:
        """Return how often each function or operator was called since the last time."""
        found = Counter(self.called)
        self.called.clear()
        return found

    def _check_functions(
        self, bodies: Mapping[Function, Counter[Function]], graph: Counter[Function]
    ) -> None:
        """Raise `ModelError` where functions that call functions write out to too many nodes."""
        sizes: dict[Function, int] = {}

        def size(function: Function, depth: int) -> int:
            if depth > MAX_FUNCTION_DEPTH:
                raise ModelError(
                    f"{self.name} has functions in functions, over {MAX_FUNCTION_DEPTH} levels deep"
                )
            if function not in sizes:
                parts = bodies[function].items()
                sizes[function] = sum(
                    n * (1 + size(part, depth + 1) if part in bodies else 1) for part, n in parts
                )
            return sizes[function]

        called = ((function, count) for function, count in graph.items() if function in bodies)
        num_nodes = sum(count * (1 + size(function, 1)) for function, count in called)
        if num_nodes > MAX_FUNCTION_NODES:
            raise ModelError(
                f"{self.name} has functions that write out to over {MAX_FUNCTION_NODES} nodes: export the "
                "model without functions"
            )

    def _check_casts(self) -> None:
        """Raise `ModelError` where a Cast in a function makes texts: its type comes from a call."""
        while more := {outer for name, outer in self.passed if name in self.casts} - self.casts:
            self.casts.update(more)
        if self.casts & self.texts:
            self._refuse_texts("Cast")

    def _refuse_texts(self, what: str) -> NoReturn:
        raise ModelError(
            f"{self.name} makes texts ({what}), expected numbers alone: a model of audio needs no texts"
        )

    def _graph(self, content: memoryview, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise ModelError(f"{self.name} has graphs in graphs, over {MAX_DEPTH} levels deep")
        for number, value in _fields(content):
            if number == _GRAPH_NODE:
                self._node(_message(value), depth)
            elif number == _GRAPH_TENSOR:
                self._tensor(_message(value))
            elif number == _GRAPH_SPARSE:
                self._sparse(_message(value))
            elif number in _GRAPH_TYPES:
                self._value(_message(value))

    def _value(self, content: memoryview) -> None:
        for number, value in _fields(content):
            if number == _VALUE_TYPE:
                self._type(_message(value), 0)

    def _type(self, content: memoryview, depth: int) -> None:
        """Raise `ModelError` for a type of texts, in a sequence and in a map too."""
        if depth > MAX_DEPTH:
            raise ModelError(f"{self.name} has types in types, over {MAX_DEPTH} levels deep")
        for number, value in _fields(content):
            if number not in _TYPE_TENSORS + _TYPE_OTHERS:
                continue
            for _, part in _fields(_message(value)):
                if _is_text_type(part):
                    self._refuse_texts("a type")
                if number in _TYPE_OTHERS and not isinstance(part, int):
                    self._type(part, depth + 1)

    def _node(self, content: memoryview, depth: int) -> None:
        operator, domain, overload, attributes = "", "", "", []
        for number, value in _fields(content):
            if number == _NODE_OPERATOR:
                operator = _text(value)
            elif number == _NODE_DOMAIN:
                domain = _text(value)
            elif number == _NODE_OVERLOAD:
                overload = _text(value)
            elif number == _NODE_ATTRIBUTE:
                attributes.append(_message(value))
        self.called.append(_joined(domain, operator, overload))
        if domain not in self.domains:
            raise ModelError(
                f"{self.name} has the operator '{operator}' of the domain '{domain}', which ONNX Runtime "
                "does not have: export the model with the operators of ONNX alone"
            )
        if operator in ENDLESS:
            raise ModelError(
                f"{self.name} has the operator '{operator}', whose rounds nothing bounds: export the model "
                "without loops"
            )
        if operator in TEXT_OPERATORS:
            self._refuse_texts(operator)
        for attribute in attributes:
            self._attribute(attribute, operator, depth)

    def _attribute(self, content: memoryview, operator: str, depth: int) -> None:
        name, outer, is_text_type, has_text, has_texts = "", "", False, False, False
        for number, value in _fields(content):
            if number == _ATTRIBUTE_NAME:
                name = _text(value)
            elif number == _ATTRIBUTE_REFERENCE:
                outer = _text(value)
            elif number == _ATTRIBUTE_INTEGER and isinstance(value, int):
                is_text_type = _is_text_type(value)
            elif number == _ATTRIBUTE_TEXT:
                has_text = True
            elif number == _ATTRIBUTE_TEXTS:
                has_texts = True
            elif number in _ATTRIBUTE_TENSORS:
                self._tensor(_message(value))
            elif number in _ATTRIBUTE_SPARSE:
                self._sparse(_message(value))
            elif number in _ATTRIBUTE_GRAPHS:
                self._graph(_message(value), depth + 1)
        has_texts = has_texts or outer in _TEXT_OPTIONS
        if ((has_text or outer) and name in _TEXT_VALUES) or (has_texts and name not in _TEXT_OPTIONS):
            self._refuse_texts(f"{operator}, {name}")
        is_cast = (operator, name) == ("Cast", "to")
        if is_cast and is_text_type:
            self._refuse_texts(operator)
        if outer:
            self.passed.append((name, outer))
            if is_cast:
                self.casts.add(outer)
        if is_text_type:
            self.texts.add(name)

    def _tensor(self, content: memoryview) -> None:
        dims: list[int] = []
        external: dict[str, str] = {}
        for number, value in _fields(content):
            if number == _TENSOR_DIMS:
                dims += _integers(value)
            elif number == _TENSOR_TEXTS or (number == _TENSOR_TYPE and _is_text_type(value)):
                self._refuse_texts("a tensor")
            elif number == _TENSOR_EXTERNAL:
                entry = {place: _text(item) for place, item in _fields(_message(value)) if place in (1, 2)}
                external[entry.get(1, "")] = entry.get(2, "")
        num_bytes = self._external_bytes(external) if external else len(content)
        self._check_size(dims, num_bytes)

    def _sparse(self, content: memoryview) -> None:
        dims: list[int] = []
        for number, value in _fields(content):
            if number in (_SPARSE_VALUES, _SPARSE_INDICES):
                self._tensor(_message(value))
            elif number == _SPARSE_DIMS:
                dims += _integers(value)
        self._check_size(dims, len(content))  # ONNX Runtime makes it dense.

    def _check_size(self, dims: list[int], num_bytes: int) -> None:
        if any(size < 0 for size in dims) or math.prod(dims) > VALUES_PER_BYTE * num_bytes:
            raise ModelError(
                f"{self.name} declares a weight of the shape {dims[:8]}, but has {num_bytes} bytes for it: "
                "export or download the model again"
            )

    def _external_bytes(self, external: dict[str, str]) -> int:
        """Return the size of a file of external data. Raises `ModelError` for one outside of the folder.

        In the cache of the hub, the files of a model are links to files that lie in one other folder.
        """
        location = external.get("location", "")
        if self.path is None:
            raise ModelError(f"{self.name} keeps weights in another file, '{location}': give its folder")
        found = self.path.parent / location
        is_plain = location and "\0" not in location and ".." not in location.replace("\\", "/").split("/")
        allowed = {os.path.realpath(self.path.parent), os.path.realpath(self.path.resolve().parent)}
        if (
            not is_plain
            or PurePosixPath(location).is_absolute()
            or PureWindowsPath(location).anchor
            or not any(Path(os.path.realpath(found)).is_relative_to(folder) for folder in allowed)
        ):
            raise ModelError(
                f"{self.name} keeps weights in '{location}', which is outside of its folder, and is not read"
            )
        if not found.is_file():
            raise ModelError(f"{self.name} keeps weights in '{location}', which is missing in its folder")
        return found.stat().st_size


def check_graph(content: memoryview, name: str, path: Path | None) -> None:
    """Raise `ModelError` for an ONNX file that could harm the machine that runs it.

    It is refused where

    - its weights are in a file outside of its folder: an absolute path, `..`, or a link that leaves it;
    - it has an operator that is not one of ONNX or of ONNX Runtime, or a loop;
    - it declares a weight that is larger than its data;
    - its functions call each other so often that they write out to too many nodes;
    - it makes texts, whose memory ONNX Runtime does not limit.

    Args:
        content: the bytes of the file.
        name: what messages call the model.
        path: of the file; None: it is in memory, and has no folder.
    """
    try:
        _Check(name, path).model(content)
    except (ValueError, OverflowError) as error:
        raise ModelError(f"{name} is not an ONNX file: {error}") from error


@contextmanager
def model_content(model: Path | bytes, name: str) -> Iterator[memoryview]:
    """Give the bytes of a model. A file is mapped, because it may be large."""
    if isinstance(model, bytes):
        yield memoryview(model)
        return
    try:
        with model.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # An empty file cannot be mapped.
        raise ModelError(f"{name} cannot be read: {error}") from error
    try:
        yield memoryview(mapped)
    finally:
        with suppress(BufferError):  # An error that was raised still holds a part of the file.
            mapped.close()


def check_file(path: Path) -> None:
    """Raise `ModelError` for an ONNX file that cannot be read, or that `check_graph` refuses."""
    with model_content(path, f"'{path}'") as content:
        check_graph(content, f"'{path}'", path)


def _fields(content: memoryview) -> Iterator[Field]:
    """Yield the fields of a message, without those of a fixed size, which are of no use here.

    Raises `ValueError` for a damaged message, and for a number of a field that other readers would cut.
    """
    place, end = 0, len(content)
    while place < end:
        tag, place = _varint(content, place)
        number, kind = tag >> 3, tag & 7
        if not number or tag >= 2**32:
            raise ValueError(f"a field has the number {number}")
        if kind == _VARINT:
            value, place = _varint(content, place)
            yield number, value
            continue
        if kind == _BYTES:
            size, place = _varint(content, place)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"a field has the kind {kind}")
        if size > end - place:
            raise ValueError("it ends within a field")
        if kind == _BYTES:
            yield number, content[place : place + size]
        place += size


def _varint(content: memoryview, place: int) -> tuple[int, int]:
    """Return a number and the place after it."""
    value = 0
    for count in range(10):
        if place + count >= len(content):
            raise ValueError("it ends within a number")
        byte = content[place + count]
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value & (2**64 - 1), place + count + 1
    raise ValueError("a number has over ten bytes")


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands where an object should be")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_message(value)).decode("utf-8")


def _function(content: memoryview) -> Function:
    """Return what calls a function."""
    names = (_texts(content, number) for number in (_FUNCTION_DOMAIN, _FUNCTION_NAME, _FUNCTION_OVERLOAD))
    return _joined(*((found or [""])[-1] for found in names))


def _joined(domain: str, name: str, overload: str) -> Function:
    return ":".join([_DOMAIN_NAMES.get(domain, domain), name, *([overload] if overload else [])])


def _is_text_type(value: int | memoryview) -> bool:
    """Return whether a number is the type of texts for ONNX Runtime, which cuts a number to 32 bits."""
    return isinstance(value, int) and value & (2**32 - 1) == TEXT_TYPE


def _texts(content: memoryview, wanted: int) -> list[str]:
    return [_text(value) for number, value in _fields(content) if number == wanted]


def _integers(value: int | memoryview) -> list[int]:
    """Return the signed numbers of a repeated field, which may be packed."""
    found: list[int] = []
    if isinstance(value, int):
        found.append(value)
    else:
        place = 0
        while place < len(value):
            number, place = _varint(value, place)
            found.append(number)
    return [number - 2**64 if number >= 2**63 else number for number in found]
