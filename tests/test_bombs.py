"""Small inputs that unpack to gigabytes, and inputs without an end: a clear error in little memory."""

import resource
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import factories as make
import numpy as np
import pyarrow
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from emodistill import demo
from emodistill.corpora import tables
from emodistill.corpora.readers.audformat import read as read_audformat
from emodistill.corpora.tables import TableOptions, read_table
from emodistill.errors import ConfigError, CorpusError, ModelError
from emodistill.inference import input_lists, parquet_reading
from emodistill.inference.input_lists import read_list
from emodistill.inference.model_card import read_card
from emodistill.reading import MAX_JSON_BYTES
from emodistill.scale import manifest
from emodistill.scale.manifest import read_batches
from emodistill.scale.storage import Storage

DEMO_CALL = Path(demo.__file__).parent / "call.ogg"
LIMIT_BYTES = 3 * 2**30  # of the addresses of the process that reads

READ = """
import sys
from pathlib import Path
from emodistill.corpora.tables import read_table
from emodistill.errors import EmodistillError
from emodistill.inference.input_lists import read_list
from emodistill.scale.manifest import read_batches
from emodistill.scale.storage import Storage
path = sys.argv[2]
try:
    if sys.argv[1] == "scale":
        for batch in read_batches(path, Storage()):
            pass
    else:
        (read_table if sys.argv[1] == "table" else read_list)(Path(path))
except EmodistillError as error:
    print("refused:", error)
"""


def repeated(path: Path, text: str, rows: int) -> None:
    """Write a Parquet file of one text, repeated."""
    indices = pyarrow.array(np.zeros(rows, dtype=np.int32))
    column = pyarrow.DictionaryArray.from_arrays(indices, pyarrow.array([text]))
    parquet.write_table(pyarrow.table({"path": column}), path, compression="zstd")


def endless(path: Path) -> None:
    """Write 20 GB without an end of a line, which take no room on the disk."""
    with path.open("wb") as file:
        file.write(b"path\n")
        file.truncate(20 * 10**9)


BOMBS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "20 GB in 20,000 rows": ("bomb.parquet", lambda path: repeated(path, "a" * 10**6, 20_000)),
    "30 million rows": ("rows.parquet", lambda path: repeated(path, "a.wav", 30_000_000)),
    "an endless row": ("endless.csv", endless),
}


@pytest.mark.parametrize(
    ("reader", "bomb"),
    [("table", bomb) for bomb in BOMBS]
    + [("scale", "20 GB in 20,000 rows"), ("scale", "an endless row"), ("list", "an endless row")],
)
def test_a_table_that_unpacks_to_gigabytes_is_refused_in_little_memory(
    reader: str, bomb: str, tmp_path: Path
) -> None:
    name, make_bomb = BOMBS[bomb]
    make_bomb(tmp_path / name)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))

    command = [sys.executable, "-c", READ, reader, str(tmp_path / name)]
    result = subprocess.run(
        command, preexec_fn=limit, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("refused: "), result.stdout
    assert name in result.stdout
    assert len(result.stdout) < 500


def test_many_rows_of_a_small_manifest_stream_through_scale(tmp_path: Path) -> None:
    repeated(tmp_path / "rows.parquet", "a.wav", 300_000)
    batches = list(read_batches(str(tmp_path / "rows.parquet"), Storage()))
    assert sum(map(len, batches)) == 300_000
    assert max(map(len, batches)) <= manifest.BATCH_ROWS
    assert batches[-1].column("path")[-1].as_py() == "a.wav"


def test_a_group_of_rows_that_unpacks_to_too_much_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"{number}.wav" for number in range(10_000)]
    parquet.write_table(pyarrow.table({"path": texts, "other": texts}), tmp_path / "m.parquet")
    monkeypatch.setattr(parquet_reading, "MAX_GROUP_BYTES", 200_000)
    monkeypatch.setattr(
        "pyarrow.parquet.ParquetFile.iter_batches", lambda *_, **__: pytest.fail("the rows were read")
    )
    with pytest.raises(CorpusError, match=r"10000 rows unpack to [0-9]+ bytes, expected at most 200000"):
        read_table(tmp_path / "m.parquet")


def test_the_card_of_a_model_that_has_a_terabyte_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"x")
    with (tmp_path / "card.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ModelError, match=f"has over {MAX_JSON_BYTES} bytes"):
        read_card(tmp_path)


def test_aliases_of_yaml_that_write_out_to_a_billion_values_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("audformat")
    names = "abcdefghi"
    lines = ["x-a: &a [l,l,l,l,l,l,l,l,l,l]"]
    lines += [f"x-{b}: &{b} [{','.join([f'*{a}'] * 10)}]" for a, b in pairwise(names)]
    for more, message in (("usage: *i", "over 2000000 values"), ("usage: &j [*j]", "over 2000000 values")):
        text = "\n".join([*lines, "name: tiny", more, ""])
        (tmp_path / "db.yaml").write_text(text)
        with pytest.raises(CorpusError, match=message):
            read_audformat(tmp_path, TableOptions())


def test_sizes_of_columns_that_do_not_fit_the_schema_do_not_end_the_process(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    # A column that may be null has a histogram of definition levels in its footer. One that may not has none.
    parquet.write_table(pyarrow.table({"path": ["a.wav"]}), path)
    content = path.read_bytes()
    footer = int.from_bytes(content[-8:-4], "little")
    start = len(content) - 8 - footer
    optional, required = b"\x25\x02\x18\x04path", b"\x25\x00\x18\x04path"  # Thrift: repetition type, name
    assert content[start:].count(optional) == 1
    path.write_bytes(content[:start] + content[start:].replace(optional, required))
    code = """
import sys
from pathlib import Path
from emodistill.corpora.tables import read_table
from emodistill.errors import EmodistillError
try:
    print(read_table(Path(sys.argv[1])).rows)
except EmodistillError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert (done.returncode, bool(done.stdout)) == (0, True), done.stderr


@given(st.lists(st.tuples(st.text(max_size=9), st.none() | st.integers(-9, 9)), min_size=1, max_size=50))
def test_parquet_is_read_as_it_is(rows: list[tuple[str, int | None]]) -> None:
    texts, numbers = [list(column) for column in zip(*rows, strict=True)]
    table = pyarrow.table({"text": texts, "number": pyarrow.array(numbers, pyarrow.int64())})
    stream = pyarrow.BufferOutputStream()
    parquet.write_table(table, stream)
    source = pyarrow.BufferReader(stream.getvalue())
    batches = [parquet_reading.plain_text(batch) for batch in parquet_reading.read_parquet(source, 7)]
    assert pyarrow.concat_tables(batches).to_pylist() == table.to_pylist()


def test_a_text_above_the_limit_is_refused_and_one_at_the_limit_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.csv"
    path.write_text("path,speaker\na.wav,s\n")
    size = path.stat().st_size
    monkeypatch.setattr(tables, "MAX_TEXT_BYTES", size)
    monkeypatch.setattr(input_lists, "MAX_LIST_BYTES", size)
    assert len(read_table(path).rows) == len(read_list(path)) == 1
    monkeypatch.setattr(tables, "MAX_TEXT_BYTES", size - 1)
    monkeypatch.setattr(input_lists, "MAX_LIST_BYTES", size - 1)
    with pytest.raises(CorpusError, match=rf"has over {size - 1} bytes; divide .*, or save it as Parquet"):
        read_table(path)
    with pytest.raises(ConfigError, match="use emodistill scale"):
        read_list(path)


def test_a_header_of_one_huge_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a" * 2_000_000 + "\n1\n")
    with pytest.raises(CorpusError, match="not CSV"):
        read_table(path)
    with pytest.raises(ConfigError, match="header of over 1048576 bytes"):
        list(read_batches(str(path), Storage()))


def predict_in_little_memory(path: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Run `emodistill predict` on a file, in a process with few addresses."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))

    command = [sys.executable, "-m", "emodistill", "predict", str(path), "--jobs", "1", "-o", str(out)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, preexec_fn=limit, check=False)


def test_a_small_file_of_sixteen_hours_is_read_in_little_memory(tmp_path: Path) -> None:
    path, out = tmp_path / "bomb.flac", tmp_path / "out.csv"
    minute = np.zeros(16_000 * 60, dtype=np.int16)
    with soundfile.SoundFile(path, "w", 16_000, 1, "PCM_16") as file:
        for _ in range(16 * 60):
            file.write(minute)
    assert path.stat().st_size < 10 * 10**6, "small, and 3.7 GB as samples"
    done = predict_in_little_memory(path, out)
    assert "Traceback" not in done.stderr
    rows = make.read_rows(out)
    assert (done.returncode, len(rows), rows[0]["emotion"]) == (0, 1, ""), done.stderr


def test_a_header_that_declares_days_takes_no_memory(tmp_path: Path) -> None:
    path, out = tmp_path / "bomb.wav", tmp_path / "out.csv"
    speech, rate_hz = soundfile.read(DEMO_CALL, dtype="int16", stop=32_000)
    soundfile.write(path, speech, rate_hz, format="WAV")
    content = bytearray(path.read_bytes())
    for place in (content.index(b"RIFF") + 4, content.index(b"data") + 4):
        content[place : place + 4] = (2**32 - 100).to_bytes(4, "little")
    path.write_bytes(content)
    done = predict_in_little_memory(path, out)
    assert "Traceback" not in done.stderr
    (row,) = make.read_rows(out)
    assert done.returncode in (0, 1), done.stderr
    assert bool(row["emotion"]) != bool(row["error"])
