"""Files on disk, in object storage and on HTTP servers: read with retries, written complete or not at all."""

import hashlib
import io
import json
import os
import posixpath
import random
import re
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote

from emodistill.errors import AudioError, ConfigError, MissingExtraError, one_of
from emodistill.files import atomic_write
from emodistill.scale import MAX_MB, RETRIES

FIRST_WAIT_S = 0.5  # before the first retry; it doubles with each one
MAX_WAIT_S = 30.0
READ_TIMEOUT_S = 60.0  # without a byte from a server
REMOTE = ("s3", "http", "https", "gs", "az", "abfs")  # the schemes that can be read beside local files
LOCAL = ("file", "local")
WEB = ("http", "https")  # read only
PACKAGES = {
    "s3": "s3fs",
    "http": "aiohttp",
    "https": "aiohttp",
    "gs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
}
NOT_IN_EXTRA = ("gcsfs", "adlfs")  # for users of these clouds alone

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
# HTTP statuses of a client's error that may pass: timeout, too early, too many requests.
_PASSING_STATUSES = (408, 425, 429)
_LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ValueError, TypeError)

T = TypeVar("T")


def scheme_of(url: str) -> str | None:
    """Return the scheme of a URL in lower case; None for a local path.

    >>> scheme_of("S3://calls/a.wav"), scheme_of("clips/a.wav")
    ('s3', None)
    """
    match = _URL.match(url)
    return match[1].lower() if match else None


def local_path(url: str) -> str | None:
    """Return the local path that a path or a `file://` URL names; None for any other URL."""
    match = _URL.match(url)
    if match is None:
        return url
    return match[2] if match[1].lower() in LOCAL else None


def join(folder: str, name: str) -> str:
    """Return the place of a name below a folder or a URL."""
    return f"{folder.rstrip('/')}/{name}" if folder.strip("/") else folder + name


def parent(url: str) -> str:
    """Return the folder that holds a file, without a URL's query.

    >>> parent("s3://calls/lists/a.csv"), parent("a.csv")
    ('s3://calls/lists', '.')
    """
    path = url.partition("?")[0] if scheme_of(url) in WEB else url
    return path.rstrip("/").rpartition("/")[0] or ("/" if path.startswith("/") else ".")


def locate(path: str, root: str, allowed: Sequence[str] = ()) -> str:
    """Return where the audio of a manifest's path is: a local path or a URL.

    Args:
        path: relative to `root`, or absolute, or a URL.
        root: a local folder or a URL.
        allowed: more folders and URLs. If there are any, a URL must be below one of them or below the root.
            Without them, each URL of `REMOTE` is accepted.

    Raises:
        AudioError: the path leaves the root (`..`, an absolute local path elsewhere, or a link out of it), or
            has a scheme that is not read.
    """
    scheme = scheme_of(path)
    if scheme is None or scheme in LOCAL:
        located = _locate_local(path, root)
        places = [root, *allowed]
    else:
        if scheme not in REMOTE:
            raise AudioError(f"{path}: {one_of('scheme', scheme, (*REMOTE, 'file'))}")
        located, places = path, [root, *allowed] if allowed else [path]
    if located is None or not any(_is_below(located, place) for place in places):
        raise AudioError(
            f"{path}: leaves '{root}', expected a path below it; name another --root, or --allow the folder"
        )
    return located


def _locate_local(path: str, root: str) -> str | None:
    """Return the place of a local or relative path; None if a URL as root cannot hold it."""
    local = local_path(path)
    assert local is not None
    if "\0" in local:
        return None
    base = local_path(root)
    if base is not None or local.startswith("/"):
        return _absolute(posixpath.join(base or "/", local))
    parts: list[str] = []
    for part in local.split("/"):
        if part == "..":
            if not parts:
                return None
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    name = "/".join(parts)
    if not name:
        return None
    return join(root, quote(name, safe="/") if scheme_of(root) in WEB else name)


def absolute(url: str) -> str:
    """Return a local path from the root of the disk; any other URL stays as it is."""
    local = local_path(url)
    return url if local is None else _absolute(local)


def is_folder(url: str) -> bool:
    """Return whether a manifest's URL names a folder: its last part has no suffix.

    >>> is_folder("s3://calls/rows"), is_folder("rows.csv")
    (True, False)
    """
    local = local_path(url)
    return Path(local).is_dir() if local is not None else "." not in url.rstrip("/").rpartition("/")[2]


def _absolute(path: str) -> str:
    """Return a local path from the root of the disk, without `.` and `..`. So none is standard input, `-`."""
    return posixpath.normpath(path if path.startswith("/") else posixpath.join(str(Path.cwd()), path))


@lru_cache(2**14)
def _real_folder(folder: str) -> str:
    """Return the place of a local folder at the end of all links. A shard has few folders."""
    return str(Path(folder).resolve())


def _real(path: str) -> str:
    """Return the place of a local file at the end of all links."""
    folder, _, name = _absolute(path).rpartition("/")
    real = posixpath.join(_real_folder(folder or "/"), name)
    try:
        return str(Path(real).resolve()) if Path(real).is_symlink() else real
    except OSError:  # No file can have this name, so reading it fails.
        return real


def _is_below(located: str, place: str) -> bool:
    """Return whether a place is a folder or URL that holds the located file."""
    path, folder = local_path(located), local_path(place)
    if path is not None and folder is not None:
        return _real(path).startswith(_real_folder(folder).rstrip("/") + "/")
    if path is not None or folder is not None:
        return False
    has_dots = ".." in re.split(r"[/\\]", located.replace("%2e", ".").replace("%2E", "."))
    return located == place or (located.startswith(place.rstrip("/") + "/") and not has_dots)


def read_options(listed: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the storage options by scheme, of `KEY=VALUE` or `SCHEME.KEY=VALUE`; a value may be JSON.

    An option without a scheme is for object storage, since HTTP servers do not know its options.

    >>> read_options(["endpoint_url=http://127.0.0.1:9000", "http.trust_env=true"])["s3"]
    {'endpoint_url': 'http://127.0.0.1:9000'}
    """
    options: dict[str, dict[str, Any]] = {scheme: {} for scheme in REMOTE}
    for text in listed:
        key, sign, value = text.partition("=")
        scheme, dot, name = key.partition(".")
        if not sign or not key or (dot and scheme not in REMOTE):
            raise ConfigError(
                f"bad --storage-option '{text}', expected KEY=VALUE or SCHEME.KEY=VALUE with one of "
                f"{list(REMOTE)}, e.g. s3.endpoint_url=http://127.0.0.1:9000"
            )
        for target in [scheme] if dot else [each for each in REMOTE if each not in WEB]:
            options[target][name if dot else key] = _value(value)
    return options


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


class Storage:
    """Local files and those of servers, by path or URL. Threads may share it, and it can be sent to workers.

    Args:
        options: of the file system of each scheme, as `read_options` returns them. They may hold secrets, so
            they are never written anywhere.
        retries: of a read or a write that fails for a reason that may pass.
        max_bytes: of one recording.
    """

    def __init__(
        self,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        retries: int = RETRIES,
        max_bytes: int = MAX_MB * 10**6,
    ) -> None:
        self.options, self.retries, self.max_bytes = options or {}, retries, max_bytes
        self._systems: dict[str, Any] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Return what a worker needs; it connects by itself."""
        return {"options": self.options, "retries": self.retries, "max_bytes": self.max_bytes}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Build the storage in a worker."""
        self.__init__(**state)  # type: ignore[misc]

    def check(self, url: str, writable: bool = False) -> None:
        """Raise `ConfigError` for a scheme that is not known or, with `writable`, that cannot be written.

        Raises `MissingExtraError` if its package is missing.
        """
        scheme = scheme_of(url)
        if local_path(url) is not None:
            return
        if scheme not in REMOTE or (writable and scheme in WEB):
            known = [each for each in REMOTE if not (writable and each in WEB)]
            raise ConfigError(f"'{url}': {one_of('scheme', str(scheme), (*known, 'file'))}")
        self._system(str(scheme))

    def fetch(self, url: str) -> BinaryIO:
        """Return the content of a URL as an open file that can be read again, at its beginning.

        It is a temporary file that is deleted when it is closed. Its name is the URL without a query, which
        may hold a secret. Raises `AudioError` if the file cannot be read after all retries.
        """
        system, path = self._place(url)
        name = _shown(url)
        descriptor, partial = tempfile.mkstemp(prefix="emodistill-")
        os.close(descriptor)
        try:
            self._again(lambda: system.get_file(path, partial, callback=_limit(self.max_bytes, name)), name)
            raw = io.FileIO(partial, "rb")
        finally:
            Path(partial).unlink()  # The open file keeps its content.
        raw.name = name
        return io.BufferedReader(raw)

    def read(self, url: str) -> bytes:
        """Return the content of a file. Raises `OSError` if it is missing, or cannot be read."""
        if (local := local_path(url)) is not None:
            return Path(local).read_bytes()
        system, path = self._place(url)
        return bytes(self._again(lambda: system.cat_file(path), _shown(url), OSError))

    def write(self, url: str, content: bytes) -> None:
        """Write a file that appears complete or not at all: by a rename on disk, by one put elsewhere."""
        if (local := local_path(url)) is not None:
            with atomic_write(Path(local)) as partial:
                partial.write_bytes(content)
            return
        system, path = self._place(url)
        self._again(lambda: system.pipe_file(path, content), _shown(url), OSError)

    def names(self, folder: str) -> dict[str, int]:
        """Return the files in a folder with their sizes in bytes; without a folder, none."""
        if (local := local_path(folder)) is not None:
            if not Path(local).is_dir():
                return {}
            return {each.name: each.stat().st_size for each in os.scandir(local) if each.is_file()}
        system, path = self._place(folder)

        def listed() -> dict[str, int]:
            system.invalidate_cache()
            try:
                found = system.ls(path, detail=True)
            except FileNotFoundError:
                return {}
            files = (each for each in found if each["type"] == "file")
            return {each["name"].rstrip("/").rpartition("/")[2]: each["size"] or 0 for each in files}

        return self._again(listed, _shown(folder), OSError)

    def remove(self, url: str) -> None:
        """Delete a file; one that is missing is no error."""
        if (local := local_path(url)) is not None:
            Path(local).unlink(missing_ok=True)
            return
        system, path = self._place(url)
        try:
            self._again(lambda: system.rm_file(path), _shown(url), OSError)
        except FileNotFoundError:
            return

    def open(self, url: str) -> BinaryIO:
        """Return a file that is open for reading anywhere in it. Raises `OSError` if it is missing."""
        if (local := local_path(url)) is not None:
            return Path(local).open("rb")
        system, path = self._place(url)
        return self._again(lambda: system.open(path, "rb"), _shown(url), OSError)

    def _place(self, url: str) -> tuple[Any, str]:
        """Return the file system of a URL, and the path in it. Nested URLs (`::`) have no meaning here."""
        system = self._system(str(scheme_of(url)))
        return system, system._strip_protocol(url)

    def _system(self, scheme: str) -> Any:
        import_fsspec()
        import fsspec

        with self._lock:
            if scheme not in self._systems:
                options = dict(self.options.get(scheme, {}))
                if scheme in WEB:
                    options.setdefault("client_kwargs", {"timeout": _web_timeout()})
                try:
                    self._systems[scheme] = fsspec.filesystem(scheme, **options)
                except ImportError as error:
                    package = PACKAGES[scheme]
                    if package in NOT_IN_EXTRA:
                        raise ConfigError(
                            f"{scheme}:// URLs need '{package}': pip install {package}"
                        ) from error
                    raise MissingExtraError(package, "scale", f"{scheme}:// URLs") from error
            return self._systems[scheme]

    def _again(self, action: Callable[[], T], name: str, kind: type[Exception] = AudioError) -> T:
        """Return what the action returns; it is tried again, later and later, while its error may pass."""
        for number in range(self.retries + 1):
            try:
                return action()
            except (AudioError, MissingExtraError):
                raise
            except Exception as error:
                lasts = not may_pass(error)
                if lasts or number == self.retries:
                    if isinstance(error, FileNotFoundError) and kind is OSError:
                        raise FileNotFoundError(f"{name}: no such file") from error
                    tries = "" if lasts else f", {number + 1} tries"
                    raise kind(f"{name}: cannot be read or written ({_reason(error)}{tries})") from error
                time.sleep(min(MAX_WAIT_S, FIRST_WAIT_S * 2**number) * random.uniform(0.5, 1.0))
        raise AssertionError("the last try returns or raises")


def may_pass(error: Exception) -> bool:
    """Return whether a read that failed may succeed when it is tried again."""
    if isinstance(error, _LASTING):
        return False
    status = getattr(error, "status", None) or _object_store_status(error)
    return status is None or not 400 <= status < 500 or status in _PASSING_STATUSES


def _object_store_status(error: Exception) -> int | None:
    response = getattr(error, "response", None)
    return response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None


def _reason(error: Exception) -> str:
    """Return why a file cannot be read, without a URL, whose query may hold a secret."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    status = getattr(error, "status", None)
    detail = f"status {status}" if status is not None else re.sub(r"\S+://\S+", "…", str(error))[:200]
    return f"{type(error).__name__}: {detail}" if detail else type(error).__name__


def _shown(url: str) -> str:
    """Return a URL as messages show it: without a query, and without a name and a password of a user."""
    path = url.partition("?")[0] if scheme_of(url) in WEB else url
    return re.sub(r"(://)[^/@]*@", r"\1", path)


def _web_timeout() -> Any:
    from aiohttp import ClientTimeout

    return ClientTimeout(total=None, sock_connect=READ_TIMEOUT_S, sock_read=READ_TIMEOUT_S)


def _limit(max_bytes: int, name: str) -> Any:
    """Return a callback of fsspec that stops a download of more than `max_bytes`."""
    from fsspec.callbacks import Callback

    class Limit(Callback):  # type: ignore[misc]
        def call(self, hook_name: Any = None, **kwargs: Any) -> None:
            if max(self.value, self.size or 0) > max_bytes:
                raise AudioError(f"{name}: has more than {max_bytes} bytes; raise --max-mb")

    return Limit()


def import_fsspec() -> None:
    """Raise `MissingExtraError` without fsspec."""
    try:
        import fsspec  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("fsspec", "scale", "emodistill scale") from error


def sha256_of(file: BinaryIO) -> str:
    """Return the SHA-256 of an open file in hex; the file is rewound."""
    file.seek(0)
    digest = hashlib.sha256()
    while block := file.read(2**20):
        digest.update(block)
    file.seek(0)
    return digest.hexdigest()
