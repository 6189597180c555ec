"""The recogniser as a server with a web page, as a client of that server, and as a static web page.

`Client` and `export_web` import no web framework. `serve` and `create_app` do, so they need [serve].
"""

from typing import TYPE_CHECKING

from emodistill.lazy import lazy_names

if TYPE_CHECKING:
    from emodistill.serving.app import create_app
    from emodistill.serving.client import Client
    from emodistill.serving.server import serve
    from emodistill.serving.settings import Settings
    from emodistill.serving.static_page import export_web

__all__ = ["Client", "Settings", "create_app", "export_web", "serve"]

__getattr__, __dir__ = lazy_names(
    "emodistill.serving",
    {
        "Client": "emodistill.serving.client",
        "Settings": "emodistill.serving.settings",
        "create_app": "emodistill.serving.app",
        "export_web": "emodistill.serving.static_page",
        "serve": "emodistill.serving.server",
    },
)
