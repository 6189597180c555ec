"""The web app: puts together the REST endpoints, the stream and the page. The recogniser does the work."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import Any

from fastapi import APIRouter, FastAPI, Request, WebSocket
from fastapi.responses import Response
from starlette.middleware.cors import CORSMiddleware

from emodistill.labels import COLOURS
from emodistill.serving import openapi
from emodistill.serving.audio_router import create_audio_router
from emodistill.serving.docs_router import create_docs_router
from emodistill.serving.jobs import Jobs
from emodistill.serving.jobs_router import create_jobs_router
from emodistill.serving.metrics import CONTENT_TYPE
from emodistill.serving.middleware import CLIENT_DISCONNECTED, AccessMiddleware
from emodistill.serving.page_router import create_page_router
from emodistill.serving.problems import RequestRefused, documented_problems, install_error_handlers
from emodistill.serving.rest import create_rest_router
from emodistill.serving.schemas import Health, ModelInfo, Models
from emodistill.serving.service import ClientDisconnectedError, Service
from emodistill.serving.settings import Settings
from emodistill.serving.stream import serve_stream
from emodistill.version import __version__

Lifespan = Callable[[Service], AbstractContextManager[None]]
_METRICS_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}}
}


def create_app(settings: Settings | None = None, lifespan: Lifespan | None = None) -> FastAPI:
    """Load the models of the settings and return the app that serves them.

    The app enters `lifespan` when it starts, and leaves it when it stops.

    Raises `ModelError` and `ConfigError` as `Recognizer` does.
    """
    service = Service(settings or Settings())
    jobs = Jobs(service)

    @asynccontextmanager
    async def run(app: FastAPI) -> AsyncIterator[None]:
        with lifespan(service) if lifespan else nullcontext():
            async with jobs.run():
                yield

    app = FastAPI(
        title="EmoDistill", version=__version__, lifespan=run, docs_url=None, redoc_url=None,
        description=openapi.DESCRIPTION, license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        separate_input_output_schemas=False,
    )  # fmt: skip
    app.state.service = service
    install_error_handlers(app)
    app.add_exception_handler(ClientDisconnectedError, _empty_response)
    app.include_router(create_rest_router(service))
    app.include_router(create_audio_router(service))
    app.include_router(create_jobs_router(service, jobs))
    app.include_router(_create_router(service))
    app.include_router(create_docs_router())
    if service.settings.page:
        app.include_router(create_page_router())
    app.add_middleware(AccessMiddleware, service=service, jobs=jobs)
    if service.settings.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(service.settings.cors_origins),
            allow_methods=["GET", "POST", "DELETE"], allow_headers=["Authorization", "Content-Type"],
            expose_headers=["X-Request-ID", "Retry-After", "Location"],
        )  # fmt: skip
    openapi.install_document(app, service)
    return app


def _create_router(service: Service) -> APIRouter:
    router = APIRouter()

    @router.get(
        "/v1/models",
        tags=["models"],
        summary="List the models of this server",
        responses=documented_problems(401, 429, 500),
    )
    async def models() -> Models:
        """Each model with its card: emotions, data, licence, scores. And the limits of the server."""
        return _describe_models(service)

    @router.get("/healthz", tags=["operations"], summary="Check that the process is alive")
    async def healthz() -> Health:
        """200 while the server can answer at all."""
        return Health(status="ok")

    @router.get(
        "/readyz", tags=["operations"], summary="Check that the server takes requests",
        responses=documented_problems(503),
    )  # fmt: skip
    async def readyz() -> Health:
        """200 once the models are loaded, 503 while the server is stopping."""
        if service.draining:
            raise RequestRefused(503, "stopping", "the server is stopping", {"Retry-After": "5"})
        return Health(status="ready")

    @router.get(
        "/metrics", tags=["operations"], summary="Get the metrics for Prometheus", response_class=Response,
        responses={**_METRICS_RESPONSE, **documented_problems(401)},
    )  # fmt: skip
    async def metrics() -> Response:
        """Requests, latencies, streams, seconds of audio, and seconds of waiting."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    @router.websocket("/v1/stream")
    async def stream(websocket: WebSocket) -> None:
        await serve_stream(websocket, service)

    return router


async def _empty_response(request: Request, error: Exception) -> Response:
    """The response to a client that has disconnected. Only the log shows it."""
    return Response(status_code=CLIENT_DISCONNECTED)


def _describe_models(service: Service) -> Models:
    settings = service.settings
    infos = [
        ModelInfo(
            name=name, default=index == 0, emotions=list(model.card.emotions),
            dimensions=list(model.card.dimensions),
            colours={emotion: COLOURS[emotion] for emotion in model.card.emotions},
            teachers=list(model.card.teachers), precision=model.card.precision,
            num_parameters=model.card.num_parameters, voice_dim=model.voice_dim,
            hop_compute_s=service.hop_compute_s[name], languages=list(model.card.languages),
            licence=model.card.licence, intended_use=model.card.intended_use, limits=model.card.limits,
            card=model.card.model_dump(mode="json"),
        )
        for index, (name, model) in enumerate(service.models.items())
    ]  # fmt: skip
    limits = (
        "max_bytes", "max_files", "max_seconds", "max_predict_seconds", "max_requests", "max_streams",
        "max_stream_seconds", "rate_per_minute",
    )  # fmt: skip
    return Models(
        version=__version__, models=infos, limits={name: getattr(settings, name) for name in limits}
    )
