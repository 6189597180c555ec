"""Every reader of outside bytes, on damaged inputs: it reads them or raises its own error."""

import random
import time
from collections.abc import Callable
from pathlib import Path

import fuzz_targets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TOTAL_S = 35.0  # of all targets together
EACH_S = TOTAL_S / len(fuzz_targets.TARGETS)
# Values that readers often do not expect.
PIECES = (
    b"", b"\0", b"\xff", b"\x80\xfe", b'"', b"'", b"{", b"[[[[[[[[", b"}", b"]", b"\n", b"\r", b"\r\r\n",
    b",", b";", b"\t", b"0", b"-1", b"1e999", b"nan", b"inf", b"-0", b"9" * 30, b"1e-400", b"null", b"true",
    b"{}", b"[]", b'""', b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"../../", b"/etc/passwd",
    b"\\\\host\\c$", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\\ud800", b"CON", b"a" * 300, b"|", b"=", b"#",
    b": ", b"- ",
)  # fmt: skip
Edit = tuple[str, float, float, bytes]
EDITS = st.lists(
    st.tuples(
        st.sampled_from(("insert", "replace", "cut", "repeat", "flip")),
        st.floats(0, 1),
        st.floats(0, 0.3),
        st.one_of(st.sampled_from(PIECES), st.binary(max_size=8)),
    ),
    max_size=6,
)


def edited(data: bytes, edits: list[Edit]) -> bytes:
    """Return the bytes after some edits: each has a place and a length, as shares of the whole."""
    for kind, place, share, piece in edits:
        start = round(place * len(data))
        end = min(len(data), start + max(1, round(share * len(data) ** 0.7)))
        if kind == "insert":
            data = data[:start] + piece + data[start:]
        elif kind == "replace":
            data = data[:start] + piece + data[start + len(piece) :]
        elif kind == "cut":
            data = data[:start] + data[end:]
        elif kind == "repeat":
            data = data[:end] + data[start:end] * 3 + data[end:]
        elif data[start:end]:
            data = data[:start] + bytes([data[start] ^ (1 + len(piece) % 255)]) + data[start + 1 :]
    return data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that returns a folder of its own for each target."""

    def of(name: str) -> Path:
        return tmp_path_factory.mktemp(name)

    return of


@pytest.mark.parametrize("name", fuzz_targets.TARGETS)
def test_a_damaged_input_is_read_or_refused(name: str, folder: Callable[[str], Path]) -> None:
    target, place = fuzz_targets.TARGETS[name], folder(name)
    seeds = list(target.seeds())
    for seed in seeds:
        target.try_input(seed, place)
    until = time.monotonic() + EACH_S

    @given(st.integers(0, len(seeds) - 1), EDITS)
    @settings(max_examples=300, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    def check(number: int, edits: list[Edit]) -> None:
        if time.monotonic() < until:
            target.try_input(edited(seeds[number], edits), place)

    check()


@pytest.mark.parametrize("name", fuzz_targets.TARGETS)
def test_a_cut_input_is_read_or_refused(name: str, folder: Callable[[str], Path]) -> None:
    target, place = fuzz_targets.TARGETS[name], folder(name)
    order = random.Random(0)
    until = time.monotonic() + EACH_S / 4
    for seed in target.seeds():
        for end in sorted(order.randrange(len(seed)) for _ in range(10)):
            if time.monotonic() < until:
                target.try_input(seed[:end], place)
