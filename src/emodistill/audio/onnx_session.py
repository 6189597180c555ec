"""One way to run an ONNX file: the student, the speech detector, and the graphs that an export compares."""

import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from emodistill.audio.onnx_graph import check_graph, model_content
from emodistill.audio.providers import CPU, ensure_available, find_provider
from emodistill.errors import ConfigError, ModelError

MEMORY_VARIABLE = "EMODISTILL_MODEL_MEMORY_MB"  # that all models of a process may take; default: half of it
_LOG_FATAL_ONLY = 4  # errors are raised, so ONNX Runtime need not log them too


def open_session(
    model: Path | bytes, threads: int | None = None, provider: str = CPU
) -> onnxruntime.InferenceSession:
    """Return a session that runs a model, given as a file or as its bytes.

    Args:
        model: the path of an ONNX file, or its content.
        threads: CPU threads for one run; None: ONNX Runtime's default, one per CPU core.
        provider: the hardware, a name of `PROVIDERS` or ONNX Runtime's own name. The CPU runs the operators
            that the provider lacks.

    Raises:
        ConfigError: this install of ONNX Runtime does not have the provider, or the provider cannot start.
        ModelError: the file is not an ONNX model, ONNX Runtime cannot run it, or `check_graph` refuses it.
    """
    chosen = find_provider(provider)
    available = onnxruntime.get_available_providers()
    ensure_available(chosen, available)
    names = [chosen.runtime_name, *(name for name in chosen.then if name in available)]
    own_options: dict[str, str] = {}
    if threads is not None and chosen.threads_option is not None:
        own_options[chosen.threads_option] = str(threads)
    name = "the model" if isinstance(model, bytes) else f"'{model}'"
    with model_content(model, name) as content:
        check_graph(content, name, model if isinstance(model, Path) else None)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.load_model_format", "ONNX")  # The other format is not checked.
    if chosen.name == CPU and _limit_memory():
        options.add_session_config_entry("session.use_env_allocators", "1")
    options.log_severity_level = _LOG_FATAL_ONLY
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(
            model, options, providers=names, provider_options=[own_options, *({} for _ in names[1:])],
            enable_fallback=0,  # With a fallback, ONNX Runtime may use the CPU alone.
        )  # fmt: skip
    except Exception as error:  # ONNX Runtime's errors have no base class of their own.
        message = " ".join(str(error).split())
        where = "" if chosen.name == CPU else f" with the provider '{chosen.name}'"
        raise ModelError(f"{name} cannot be run by ONNX Runtime{where}: {message}") from error
    if chosen.runtime_name not in session.get_providers():
        raise ConfigError(
            f"the provider '{chosen.name}' did not start, and ONNX Runtime would use the CPU in its place: "
            "check the driver and the libraries of the hardware (docs/how-to/hardware.md), or choose the "
            f"provider '{CPU}'"
        )
    return session


def run_session(
    session: onnxruntime.InferenceSession,
    inputs: Mapping[str, npt.NDArray[Any]],
    name: str,
    num_rows: int,
    outputs: Sequence[str] | None = None,
) -> list[npt.NDArray[np.float32]]:
    """Return outputs of a model, (num_rows, columns) each; None: all. `name` is the model in messages.

    Raises `ModelError` where ONNX Runtime cannot run it, for example for lack of memory, and where an output
    has another shape or other values.
    """
    try:
        outputs = [output.name for output in session.get_outputs()] if outputs is None else outputs
        values = session.run(list(outputs), dict(inputs))
    except Exception as error:  # ONNX Runtime's errors have no base class of their own.
        message = " ".join(str(error).split())
        hint = ""
        if "Available memory" in message or "allocate memory" in message or "bad_alloc" in message:
            hint = f"; all models together may take {memory_limit() // 10**6} MB, see {MEMORY_VARIABLE}"
        raise ModelError(f"{name} cannot be run: {message[:500]}{hint}") from error
    for output, value in zip(outputs, values, strict=True):
        is_table = isinstance(value, np.ndarray) and value.ndim == 2 and value.dtype.kind == "f"
        if not is_table or len(value) != num_rows:
            raise ModelError(
                f"{name} gives '{output}' with the shape {getattr(value, 'shape', None)}, expected "
                f"({num_rows}, columns) of floating-point numbers"
            )
        if not np.isfinite(value).all():
            raise ModelError(f"{name} gives '{output}' with values that are no finite numbers")
    return list(values)


@lru_cache(maxsize=1)
def memory_limit() -> int:
    """Return how many bytes all models of this process may take: half of the machine's or container's memory.

    The environment variable `MEMORY_VARIABLE` replaces it. Raises `ConfigError` for a bad value of it.
    """
    if given := os.environ.get(MEMORY_VARIABLE):
        if not given.isdecimal() or not int(given):
            raise ConfigError(f"bad {MEMORY_VARIABLE} '{given}', expected a number of megabytes")
        return int(given) * 10**6
    limits = [2**35]  # where the system does not tell its memory
    with suppress(AttributeError, ValueError, OSError):  # Windows has no sysconf.
        limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with suppress(OSError, ValueError):  # no container, or "max"
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return min(limits) // 2


_registering = threading.Lock()


def _limit_memory() -> bool:
    """Let all models of this process share one arena with a limit; returns whether it could be done."""
    with _registering:
        return _register_arena(memory_limit())


@lru_cache(maxsize=1)
def _register_arena(limit: int) -> bool:
    kind = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    memory = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, onnxruntime.OrtMemType.DEFAULT)
    try:
        onnxruntime.create_and_register_allocator(memory, onnxruntime.OrtArenaCfg({"max_mem": limit}))
    except Exception:  # A program that uses ONNX Runtime itself may have registered its own.
        return False
    return True
