"""Serves the web page: the files of the folder `page/`. The page loads nothing from any other place."""

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse, Response
from starlette.exceptions import HTTPException

from emodistill.inference.formats import formats_without_source
from emodistill.serving.static_page import formats_script

PAGE_FOLDER = Path(str(files("emodistill"))) / "serving" / "page"
# The page may load from and send to this server only. Exceptions: the waveform sets inline styles, and the
# page plays audio from its own memory (blob:).
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self' blob:; "
    "media-src 'self' blob:; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml", "": "text/plain; charset=utf-8",
}  # fmt: skip
_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY, "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
}  # fmt: skip


def create_page_router() -> APIRouter:
    """Routes for `/` and for each file of the page, below `/page/`. No other file can be requested.

    `/page/formats.js` lists the formats of the download buttons. It is made from the registry.
    """
    router = APIRouter(include_in_schema=False)
    paths = {
        path.relative_to(PAGE_FOLDER).as_posix(): path for path in PAGE_FOLDER.rglob("*") if path.is_file()
    }
    formats = formats_script(formats_without_source())

    @router.get("/")
    async def index() -> FileResponse:
        return _file_response(paths["index.html"])

    @router.get("/page/formats.js")
    async def formats_file() -> Response:
        return Response(formats, media_type=_MEDIA_TYPES[".js"], headers=_HEADERS)

    @router.get("/page/{name:path}")
    async def page_file(name: str) -> FileResponse:
        if name not in paths:
            raise HTTPException(404)
        return _file_response(paths[name])

    return router


def _file_response(path: Path) -> FileResponse:
    return FileResponse(path, media_type=_MEDIA_TYPES[path.suffix], headers=_HEADERS)
