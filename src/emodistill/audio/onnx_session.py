"""One way to run an ONNX file: the student, the speech detector, and the graphs that an export compares."""

from pathlib import Path

import onnxruntime

from emodistill.audio.providers import CPU, ensure_available, find_provider
from emodistill.errors import ConfigError, ModelError

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
        ModelError: the file is not an ONNX model, or ONNX Runtime cannot run it.
    """
    chosen = find_provider(provider)
    available = onnxruntime.get_available_providers()
    ensure_available(chosen, available)
    names = [chosen.runtime_name, *(name for name in chosen.then if name in available)]
    own_options: dict[str, str] = {}
    if threads is not None and chosen.threads_option is not None:
        own_options[chosen.threads_option] = str(threads)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _LOG_FATAL_ONLY
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(
            model, options, providers=names, provider_options=[own_options, *({} for _ in names[1:])],
            enable_fallback=0,  # With a fallback, ONNX Runtime may use the CPU alone.
        )  # fmt: skip
    except Exception as error:  # ONNX Runtime's errors have no base class of their own.
        name = "the model" if isinstance(model, bytes) else f"'{model}'"
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
