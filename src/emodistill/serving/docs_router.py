"""Serves `/docs`: the OpenAPI document of the server as a page, which loads nothing from any other place."""

import gzip
from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

DOCS_FOLDER = Path(str(files("emodistill"))) / "serving" / "docs_page"
# Requests that the reader tries out go to this server only. The styles contain pictures (data:).
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_MEDIA_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", "": "text/plain"}
_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY, "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer", "Vary": "Accept-Encoding",
}  # fmt: skip


def create_docs_router() -> APIRouter:
    """Routes for `/docs` and for each file of its page, below `/docs/`. No other file can be requested."""
    router = APIRouter(include_in_schema=False)
    paths = {
        path.relative_to(DOCS_FOLDER).as_posix(): path for path in DOCS_FOLDER.rglob("*") if path.is_file()
    }

    @router.get("/docs")
    def index() -> Response:
        return _response(paths["index.html"], packed=False)

    @router.get("/docs/{name:path}")
    def docs_file(request: Request, name: str) -> Response:
        if name in paths:
            return _response(paths[name], packed=False)
        path = paths.get(f"{name}.gz")  # packed to keep the wheel small
        if path is None:
            raise HTTPException(404)
        return _response(path, packed="gzip" in request.headers.get("accept-encoding", ""))

    return router


def _response(path: Path, packed: bool) -> Response:
    """The content of a file. `packed` sends a file in gzip format as it is."""
    content, headers, name = path.read_bytes(), dict(_HEADERS), path
    if path.suffix == ".gz":
        name = path.with_suffix("")
        if packed:
            headers["Content-Encoding"] = "gzip"
        else:
            content = gzip.decompress(content)
    return Response(content, media_type=_MEDIA_TYPES[name.suffix], headers=headers)
