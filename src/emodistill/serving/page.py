"""The web page: static files of this package, and nothing from anywhere else."""

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException

FOLDER = Path(str(files("emodistill"))) / "serving" / "page"
# Nothing is loaded from, or sent to, anywhere but this server. The waveform brings a style of its own; sound is
# played from the page's memory.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self' blob:; "
    "media-src 'self' blob:; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_TYPES = {
    ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml", "": "text/plain; charset=utf-8",
}  # fmt: skip
_HEADERS = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache", "Referrer-Policy": "no-referrer"}


def router() -> APIRouter:
    """`/` and the files below `/page/`, which are known by name."""
    router = APIRouter(include_in_schema=False)
    files = {path.relative_to(FOLDER).as_posix(): path for path in FOLDER.rglob("*") if path.is_file()}

    @router.get("/")
    async def index() -> FileResponse:
        return _file(files["index.html"])

    @router.get("/page/{name:path}")
    async def file(name: str) -> FileResponse:
        if name not in files:
            raise HTTPException(404)
        return _file(files[name])

    return router


def _file(path: Path) -> FileResponse:
    return FileResponse(path, media_type=_TYPES[path.suffix], headers=_HEADERS)
