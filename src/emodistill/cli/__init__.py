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


def main() -> None:
    """Run the command line. A user error is one message on standard error and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=UNENCODABLE)
    try:
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
        console.print(f"error: {text}", style="bold red", markup=False)
        sys.exit(2)


def end_process(code: int) -> NoReturn:
    """End at once: threads that still process a file after Ctrl-C would delay a normal exit by minutes."""
    with suppress(OSError):  # The reader of a pipe may have ended too.
        sys.stdout.flush()
    os._exit(code)
