"""The command line: one function for each verb. Heavy imports happen inside the verb that needs them."""

import os
import re
import sys
from contextlib import suppress
from importlib import import_module
from io import TextIOWrapper
from typing import NoReturn

from emodistill.cli.options import INTERRUPTED, Stopped, app
from emodistill.console import console
from emodistill.errors import EmodistillError
from emodistill.files import UNENCODABLE
from emodistill.partial_folders import explain_no_space

__all__ = ["app", "main"]

# Each module adds its verbs to `app`. `--help` shows the verbs in this order.
for _module in (
    "predict",
    "timeline",
    "serving",
    "listen",
    "mcp",
    "voices",
    "embed",
    "scale",
    "models",
    "corpora",
    "training",
    "exporting",
    "tuning",
    "scoring",
    "stress",
    "cache",
):
    import_module(f"emodistill.cli.{_module}")


RESUMABLE = ("train", "crossval", "ablate", "tune", "demo", "stress")  # verbs that continue after Ctrl-C


# What the system, ONNX Runtime and torch say where memory is missing, also while a package is imported.
_NO_MEMORY = re.compile(r"can(no|')t allocate memory|failed to map segment|bad.?alloc", re.IGNORECASE)


def main() -> None:
    """Run the command line. A user error is one message on standard error and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=UNENCODABLE)
    try:
        with explain_no_space():
            app()
    except Stopped:
        end_process(INTERRUPTED)
    except SystemExit as stop:
        if stop.code == INTERRUPTED and sys.argv[1:2] and sys.argv[1] in RESUMABLE:
            console.print("stopped; to continue, run the same command again")
        raise
    except (EmodistillError, OSError) as error:
        text = str(error)
        if isinstance(error, OSError):
            text = re.sub(r"^\[Errno \d+\] ", "", " ".join(text.split()))
        _end_with_error(text)
    except Exception as error:
        if not isinstance(error, MemoryError) and not _NO_MEMORY.search(str(error)):
            raise
        _end_with_error("cannot allocate memory")


def _end_with_error(text: str) -> NoReturn:
    if _NO_MEMORY.search(text):
        text = (
            "not enough memory: free some, or use fewer --jobs, shorter recordings or a smaller model, and "
            "run the same command again"
        )
    console.print(f"error: {text}", style="bold red", markup=False)
    sys.exit(2)


def end_process(code: int) -> NoReturn:
    """End at once: threads that still process a file after Ctrl-C would delay a normal exit by minutes."""
    with suppress(OSError):  # The reader of a pipe may have ended too.
        sys.stdout.flush()
    os._exit(code)
