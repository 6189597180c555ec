"""One way to run an ONNX file: the student, the speech detector, and the graphs that an export compares."""

from collections.abc import Sequence
from pathlib import Path

import onnxruntime

from emodistill.errors import ConfigError, ModelError, one_of

_LOG_FATAL_ONLY = 4  # errors are raised, so ONNX Runtime need not log them too


def open_session(
    model: Path | bytes, threads: int | None = None, providers: Sequence[str] | None = None
) -> onnxruntime.InferenceSession:
    """Return a session that runs a model, given as a file or as its bytes.

    Args:
        model: the path of an ONNX file, or its content.
        threads: CPU threads for one run; None: ONNX Runtime's default, one per CPU core.
        providers: ONNX Runtime's execution providers in order of preference; None: the CPU.

    Raises:
        ConfigError: this install of ONNX Runtime does not have one of the providers.
        ModelError: the file is not an ONNX model, or ONNX Runtime cannot run it.
    """
    available = onnxruntime.get_available_providers()
    for name in providers or ():
        if name not in available:
            raise ConfigError(one_of("provider", name, available))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _LOG_FATAL_ONLY
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(
            model, options, providers=list(providers or ["CPUExecutionProvider"])
        )
    except Exception as error:  # ONNX Runtime's errors have no base class of their own.
        name = "the model" if isinstance(model, bytes) else f"'{model}'"
        message = " ".join(str(error).split())
        raise ModelError(f"{name} cannot be run by ONNX Runtime: {message}") from error
