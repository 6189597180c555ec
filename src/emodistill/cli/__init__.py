"""The command line: one function for each verb. Heavy imports happen inside the verb that needs them."""

import sys
from importlib import import_module
from io import TextIOWrapper

from emodistill.cli.options import app
from emodistill.console import UNENCODABLE, console
from emodistill.errors import EmodistillError

__all__ = ["app", "main"]

# Each module adds its verbs to `app`. `--help` shows the verbs in this order.
for _module in (
    "predict",
    "timeline",
    "serving",
    "listen",
    "voices",
    "models",
    "corpora",
    "training",
    "scoring",
):
    import_module(f"emodistill.cli.{_module}")


def main() -> None:
    """Run the command line. A user error is one message on standard error and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=UNENCODABLE)
    try:
        app()
    except (EmodistillError, OSError) as error:
        text = " ".join(str(error).split()) if isinstance(error, OSError) else str(error)
        console.print(f"error: {text}", style="bold red", markup=False)
        sys.exit(2)
