"""Manifests of millions of rows: CSV, TSV, Parquet or a folder of Parquet files become shards of Parquet."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from emodistill.errors import AudioError, ConfigError, one_of
from emodistill.inference.input_lists import COLUMNS, delimiter_of, input_of
from emodistill.inference.inputs import Input
from emodistill.inference.parquet_reading import read_parquet
from emodistill.inference.parquet_table import load_pyarrow, table_bytes
from emodistill.inference.thread_map import map_in_order
from emodistill.reading import is_utf16
from emodistill.scale.storage import Storage, join, local_path, locate, scheme_of, sha256_of

CSV = (".csv", ".tsv")
PARQUET = (".parquet", ".pq")
REMOTE_JOBS = 16  # files of object storage that are written or deleted at a time
BATCH_ROWS = 65_536  # that the driver holds at once
MAX_HEADER_BYTES = 2**20  # of CSV; a row has the same limit, the block size of Arrow


def check_manifest(url: str, storage: Storage) -> None:
    """Raise an error for a manifest that is missing, or is no CSV, TSV, Parquet or folder of Parquet."""
    storage.check(url)
    _files(url, storage)


def manifest_sha256(url: str, storage: Storage) -> str:
    """Return the SHA-256 of the content of a manifest in hex; of a folder, that of its files in order."""
    digest = hashlib.sha256()
    for file in _files(url, storage):
        with _opened(file, storage) as opened:
            digest.update(sha256_of(opened).encode())
    return digest.hexdigest()


def read_batches(url: str, storage: Storage, speaker: str | None = None) -> Iterator[Any]:
    """Yield the rows of a manifest in order as tables of Arrow with `COLUMNS`, all text; other columns go.

    `speaker` names the column of speakers. Raises `ConfigError` for a manifest that is damaged, or has no
    column `path` or `speaker`.
    """
    arrow = load_pyarrow()
    for file in _files(url, storage):
        with _opened(file, storage) as opened:
            try:
                read = _csv_batches if _suffix(file) in CSV else _parquet_batches
                for batch in read(opened, file, speaker):
                    yield _to_columns(batch, speaker)
            except (arrow.ArrowException, ValueError) as error:
                reason = " ".join(str(error).split())[:300]
                raise ConfigError(f"the manifest '{file}' cannot be read: {reason}") from error


def write_shards(
    batches: Iterator[Any], shard_rows: int, storage: Storage, folder: str, name: str
) -> list[int]:
    """Write the rows as Parquet files of `shard_rows` rows; returns the number of rows of each shard.

    `name` is the pattern of the names of the files in the folder, with the number of the shard.
    """

    def write(numbered: tuple[int, Any]) -> int:
        number, table = numbered
        storage.write(join(folder, name.format(number)), table_bytes(table))
        return len(table)

    shards = enumerate(_shards(batches, shard_rows))
    return list(map_in_order(write, shards, 1 if local_path(folder) is not None else REMOTE_JOBS))


def _shards(batches: Iterator[Any], shard_rows: int) -> Iterator[Any]:
    """Yield tables of `shard_rows` rows, and a last one with the rest; few rows are held at a time."""
    arrow = load_pyarrow()
    waiting: list[Any] = []
    num_waiting = 0
    for batch in batches:
        waiting.append(batch)
        num_waiting += len(batch)
        if num_waiting < shard_rows:
            continue
        table = arrow.concat_tables(waiting)
        end = num_waiting - num_waiting % shard_rows
        for start in range(0, end, shard_rows):
            yield table.slice(start, shard_rows)
        waiting, num_waiting = [table.slice(end)], num_waiting - end
    if num_waiting:
        yield arrow.concat_tables(waiting)


def read_inputs(
    table: Any, first_row: int, root: str, allowed: tuple[str, ...] = ()
) -> list[tuple[Input, str | None]]:
    """Return the input of each row of a shard, and the URL of its audio, None for a local file.

    A row that is damaged, or whose path leaves the root, gives an input with its `error`.
    """
    inputs: list[tuple[Input, str | None]] = []
    for number, fields in enumerate(table.to_pylist(), start=first_row):
        try:
            item = input_of(fields, Path(), f"row {number}")
        except ConfigError as error:
            path = fields["path"] if isinstance(fields["path"], str) else ""
            inputs.append((Input(path, error=str(error)), None))
            continue
        try:
            place = locate(item.path, root, allowed)
        except AudioError as error:
            inputs.append((replace(item, error=str(error)), None))
            continue
        local = local_path(place)
        inputs.append((item if local is None else replace(item, file=Path(local)), None if local else place))
    return inputs


def _files(url: str, storage: Storage) -> list[str]:
    """Return the files of a manifest in order. Raises `ConfigError` if there are none."""
    if _suffix(url) in (*CSV, *PARQUET):
        local = local_path(url)
        if local is None or not Path(local).is_dir():
            if local is not None and not Path(local).is_file():
                raise ConfigError(f"no manifest '{url}': expected CSV, TSV, Parquet or a folder of Parquet")
            return [url]
    if scheme_of(url) in ("http", "https"):
        raise ConfigError(f"bad manifest '{url}', expected a name that ends in .csv, .tsv or .parquet")
    names = sorted(
        name for name in storage.names(url) if _suffix(name) in PARQUET and not name.startswith((".", "_"))
    )
    if not names:
        raise ConfigError(f"no manifest '{url}': expected CSV, TSV, Parquet or a folder of Parquet files")
    return [join(url, name) for name in names]


def _suffix(url: str) -> str:
    return PurePosixPath(url.partition("?")[0] if scheme_of(url) else url).suffix.lower()


@contextmanager
def _opened(file: str, storage: Storage) -> Iterator[BinaryIO]:
    try:
        opened: BinaryIO
        with (
            Path(local).open("rb")
            if (local := local_path(file)) is not None
            else storage.fetch(file) as opened
        ):
            yield opened
    except (AudioError, OSError) as error:
        raise ConfigError(f"the manifest '{file}' cannot be read: {error}") from error


def _csv_batches(opened: BinaryIO, file: str, speaker: str | None) -> Iterator[Any]:
    arrow = load_pyarrow()
    from pyarrow import csv

    header, delimiter = _header(opened, file)
    _check_columns([name.strip() for name in header], file, speaker)
    wanted = [name for name in header if name.strip() in (*COLUMNS, speaker)]
    parse = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    convert = csv.ConvertOptions(
        column_types=dict.fromkeys(wanted, arrow.string()), include_columns=wanted, null_values=[""],
        strings_can_be_null=True,
    )  # fmt: skip
    has_spaces = any(name.startswith(" ") for name in wanted)  # "path, speaker": they are no part of a field
    # Arrow reads ahead in a thread, which must not call Python when the process ends after an error.
    local = local_path(file)
    source = opened if local is None else arrow.OSFile(local)
    with csv.open_csv(source, parse_options=parse, convert_options=convert) as reader:
        for batch in reader:
            table = arrow.Table.from_batches([batch])
            columns = [arrow.compute.utf8_ltrim(each, " ") if has_spaces else each for each in table.columns]
            yield arrow.Table.from_arrays(columns, names=[name.strip() for name in table.column_names])


def _header(opened: BinaryIO, file: str) -> tuple[list[str], str]:
    """Return the names in the header of a CSV file, and its delimiter. Raises `ConfigError` without one."""
    import csv

    line = opened.readline(MAX_HEADER_BYTES)
    opened.seek(0)
    if len(line) == MAX_HEADER_BYTES:
        raise ConfigError(f"the manifest '{file}' has a header of over {MAX_HEADER_BYTES} bytes")
    if is_utf16(line):
        raise ConfigError(f"the manifest '{file}' is UTF-16, expected UTF-8: save it again as UTF-8")
    text = line.decode("utf-8-sig", errors="replace")
    if not text.strip():
        raise ConfigError(
            f"the manifest '{file}' begins with no header: expected a line with the column path"
        )
    delimiter = "\t" if _suffix(file) == ".tsv" else delimiter_of(text)
    try:
        return next(csv.reader([text], delimiter=delimiter)), delimiter
    except csv.Error as error:
        raise ConfigError(f"the manifest '{file}' has no header that can be read: {error}") from error


def _parquet_batches(opened: BinaryIO, file: str, speaker: str | None) -> Iterator[Any]:
    names = load_pyarrow().parquet.read_schema(opened).names
    opened.seek(0)
    _check_columns(names, file, speaker)
    wanted = [name for name in {*COLUMNS, *([speaker] if speaker else [])} if name in names]
    yield from read_parquet(opened, BATCH_ROWS, wanted)


def _check_columns(names: list[str], file: str, speaker: str | None) -> None:
    for name in ("path", *([speaker] if speaker else [])):
        if names.count(name) != 1:
            problem = "there twice" if name in names else one_of("column", name, names)
            raise ConfigError(f"the manifest '{file}' needs the column '{name}' once: {problem}")
    for name in COLUMNS:
        if names.count(name) > 1:
            raise ConfigError(f"the manifest '{file}' has the column '{name}' twice: rename one of them")


def _to_columns(table: Any, speaker: str | None) -> Any:
    """Return a table with `COLUMNS` alone, as text; a column that is missing is null."""
    arrow = load_pyarrow()
    sources: Mapping[str, str] = {**{name: name for name in COLUMNS}, "speaker": speaker or "speaker"}
    arrays = [
        table[source].cast(arrow.string())
        if source in table.column_names
        else arrow.nulls(len(table), arrow.string())
        for source in sources.values()
    ]
    columns = arrow.Table.from_arrays(arrays, names=list(sources))
    columns.validate(full=True)  # Parquet may hold text that is no UTF-8.
    return columns
