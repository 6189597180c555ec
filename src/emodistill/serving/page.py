"""The web page: static files of this package, and nothing from anywhere else."""

from importlib.resources import files

from fastapi import APIRouter

PAGE = files("emodistill") / "serving" / "page"
# Nothing is loaded from, or sent to, anywhere but this server. The waveform styles itself; sound and pictures are made here.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self' blob:; "
    "media-src 'self' blob:; img-src 'self' data: blob:; worker-src 'self' blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


def router() -> APIRouter:
    """`/` and the files below `/page/`."""
    return APIRouter(include_in_schema=False)
