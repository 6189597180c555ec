"""The app: REST, the stream, the page. It only carries; what is judged is judged by the recogniser."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import Any

from fastapi import APIRouter, FastAPI, Request, WebSocket
from fastapi.responses import Response
from starlette.middleware.cors import CORSMiddleware

from emodistill.labels import COLOURS
from emodistill.serving import openapi, page, problems, rest
from emodistill.serving.metrics import CONTENT_TYPE
from emodistill.serving.middleware import AccessMiddleware
from emodistill.serving.problems import Refused, responses
from emodistill.serving.schemas import Health, ModelInfo, Models
from emodistill.serving.service import Gone, Service
from emodistill.serving.settings import Settings
from emodistill.serving.stream import serve_stream
from emodistill.version import __version__

Around = Callable[[Service], AbstractContextManager[None]]
_METRICS: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}


def create_app(settings: Settings | None = None, around: Around | None = None) -> FastAPI:
    """An app over the models of the settings, which are loaded here.

    `around` is entered when the app starts and left when it stops. Raises `ModelError` and `ConfigError` as `Recognizer` does.
    """
    service = Service(settings or Settings())

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        with around(service) if around else nullcontext():
            yield

    app = FastAPI(
        title="EmoDistill", version=__version__, lifespan=life, docs_url=None, redoc_url=None,
        description=openapi.DESCRIPTION, license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        separate_input_output_schemas=False,
    )  # fmt: skip
    app.state.service = service
    problems.install(app)
    app.add_exception_handler(Gone, _gone)
    app.include_router(rest.router(service))
    app.include_router(_router(service))
    if service.settings.page:
        app.include_router(page.router())
    app.add_middleware(AccessMiddleware, service=service)
    if service.settings.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(service.settings.cors_origins), allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"], expose_headers=["X-Request-ID", "Retry-After"],
        )  # fmt: skip
    openapi.describe(app, service)
    return app


def _router(service: Service) -> APIRouter:
    router = APIRouter()

    @router.get(
        "/v1/models",
        tags=["models"],
        summary="The models that are served",
        responses=responses(401, 429, 500),
    )
    async def models() -> Models:
        """Each with its card: emotions, data, licence, scores, calibration, limits; and the server's limits."""
        return _models(service)

    @router.get("/healthz", tags=["operations"], summary="Is the process alive?")
    async def healthz() -> Health:
        """200 as long as the server answers at all."""
        return Health(status="ok")

    @router.get("/readyz", tags=["operations"], summary="Is it ready for work?", responses=responses(503))
    async def readyz() -> Health:
        """200 with the models loaded; 503 from when the server is told to stop."""
        if service.draining:
            raise Refused(503, "stopping", "the server is stopping", {"Retry-After": "5"})
        return Health(status="ready")

    @router.get(
        "/metrics", tags=["operations"], summary="For Prometheus", response_class=Response,
        responses={**_METRICS, **responses(401)},
    )  # fmt: skip
    async def metrics() -> Response:
        """Requests, latencies, streams, seconds of audio, waiting."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    @router.websocket("/v1/stream")
    async def stream(websocket: WebSocket) -> None:
        await serve_stream(websocket, service)

    return router


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # for the log alone


def _models(service: Service) -> Models:
    settings = service.settings
    infos = [
        ModelInfo(
            name=name, default=place == 0, emotions=list(model.card.emotions),
            colours={emotion: COLOURS[emotion] for emotion in model.card.emotions}, teachers=list(model.card.teachers),
            precision=model.card.precision, num_parameters=model.card.num_parameters,
            languages=list(model.card.languages), licence=model.card.licence,
            intended_use=model.card.intended_use, limits=model.card.limits, card=model.card.model_dump(mode="json"),
        )
        for place, (name, model) in enumerate(service.models.items())
    ]  # fmt: skip
    limits = (
        "max_bytes", "max_files", "max_seconds", "max_predict_seconds", "max_requests", "max_streams",
        "max_stream_seconds", "rate_per_minute",
    )  # fmt: skip
    return Models(
        version=__version__, models=infos, limits={name: getattr(settings, name) for name in limits}
    )
