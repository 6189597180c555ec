"""The middleware: tokens, rate limits, limits on requests at the same time, and other sites."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import factories as make
import numpy as np
import pytest
from factories_serving import SPEECH, problem, upload
from fastapi.testclient import TestClient

from emodistill.errors import ConfigError
from emodistill.serving import service as service_module
from emodistill.serving.app import create_app
from emodistill.serving.middleware import RequestBody
from emodistill.serving.rate_limiter import RateLimiter
from emodistill.serving.settings import Settings

SETTINGS = Settings(threads=2)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(SETTINGS)) as test_client:
        yield test_client


def served(**options: Any) -> TestClient:
    """A client of a server with these settings."""
    return TestClient(create_app(SETTINGS.model_copy(update=options)))


def test_a_server_with_a_token_requires_it() -> None:
    with served(token=Settings(token="s3cret").token) as client:
        response = client.get("/v1/models")
        assert problem(response, 401)
        assert response.headers["www-authenticate"].startswith("Bearer")
        for wrong in ("Bearer no", "Bearer", "Basic s3cret", "s3cret", "Bearer s3cret s3cret"):
            problem(client.get("/v1/models", headers={"Authorization": wrong}), 401)
        problem(client.get("/metrics"), 401)
        assert client.get("/v1/models", headers={"Authorization": "Bearer s3cret"}).status_code == 200
        assert client.get("/healthz").status_code == 200


def test_a_client_above_the_rate_limit_is_refused() -> None:
    with served(rate_per_minute=2) as client:
        assert [client.get("/v1/models").status_code for _ in range(3)] == [200, 200, 429]
        response = client.get("/v1/models")
        assert problem(response, 429)["type"] == "urn:emodistill:too-many"
        assert 0 < int(response.headers["retry-after"]) <= 31
        ignored = {"X-Forwarded-For": "192.0.2.1", "Forwarded": "for=192.0.2.1", "X-Real-IP": "192.0.2.1"}
        assert client.get("/v1/models", headers=ignored).status_code == 429


def test_the_rate_limit_counts_wrong_tokens() -> None:
    with served(rate_per_minute=2, token=Settings(token="x").token) as client:
        wrong = {"Authorization": "Bearer no"}
        assert [client.get("/v1/models", headers=wrong).status_code for _ in range(3)] == [401, 401, 429]


@pytest.mark.parametrize("token", ["", "two words", "ключ", "line\nbreak"])
def test_empty_tokens_and_tokens_that_fit_no_header_are_refused(token: str) -> None:
    with pytest.raises(ConfigError, match="bad token: expected printable ASCII"):
        Settings(token=token)  # type: ignore[arg-type]


@pytest.mark.parametrize("shared", [True, False])
def test_buckets_fill_up_again_and_full_ones_are_deleted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shared: bool
) -> None:
    now = 0.0
    monkeypatch.setattr("emodistill.serving.rate_limiter.time.monotonic", lambda: now)
    monkeypatch.setattr("emodistill.serving.rate_limiter.SWEEP_EVERY", 1)
    limiter = RateLimiter(60, tmp_path / "rates.sqlite" if shared else None)
    assert [limiter.take_token("a") for _ in range(61)] == [0.0] * 60 + [1.0]
    now = 1.0
    assert limiter.take_token("a") == 0.0
    assert limiter.take_token("a") == 1.0
    assert limiter.take_token("b") == 0.0
    now = 61.5
    assert limiter.take_token("c") == 0.0
    assert limiter._database.execute("SELECT client FROM buckets").fetchall() == [("c",)]


def test_workers_share_the_rate_limit_and_divide_the_limits_on_concurrent_work(tmp_path: Path) -> None:
    first, second = (RateLimiter(4, tmp_path / "rates.sqlite") for _ in range(2))
    assert [limiter.take_token("a") for limiter in (first, second, first, second)] == [0.0] * 4
    assert first.take_token("a") > 10
    assert second.take_token("a") > 10
    assert second.take_token("b") == 0.0
    settings = Settings(workers=3)
    assert [settings.per_worker(limit) for limit in (64, 3, 1)] == [21, 1, 1]


def test_the_addresses_of_an_ipv6_network_are_one_client() -> None:
    limiter = RateLimiter(1)
    assert limiter.take_token("2001:db8::1") == 0.0
    assert limiter.take_token("2001:db8::ffff") > 0
    assert limiter.take_token("2001:db8:0:1::1") == 0.0
    assert limiter.take_token("192.0.2.1") == 0.0
    assert limiter.take_token("::ffff:192.0.2.1") > 0
    assert limiter.take_token("") == 0.0


def test_requests_above_the_limit_on_concurrent_requests_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    started, proceed = threading.Event(), threading.Event()

    def slow(*_: Any) -> np.ndarray:
        started.set()
        assert proceed.wait(30)
        return make.speech(1.0)

    monkeypatch.setattr(service_module, "load_bounded", slow)
    with served(max_requests=1) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/v1/predict", files=upload(SPEECH[0]))
        assert started.wait(30)
        response = client.post("/v1/predict", files=upload(SPEECH[0]))
        assert problem(response, 503)["type"] == "urn:emodistill:busy"
        assert response.headers["retry-after"] == "1"
        assert client.get("/readyz").status_code == 200
        proceed.set()
        assert first.result().status_code == 200
        assert client.post("/v1/predict", files=upload(SPEECH[0])).status_code == 200


@pytest.mark.parametrize(("sent", "read"), [(20, 20), (500, 64)])
def test_the_rest_of_a_refused_upload_is_discarded_up_to_a_limit(sent: int, read: int) -> None:
    left = list(range(sent))  # MB

    async def receive() -> dict[str, Any]:
        left.pop()
        return {"type": "http.request", "body": bytes(1_000_000), "more_body": bool(left)}

    headers = [(b"content-length", b"%d" % (sent * 1_000_000))]
    body = RequestBody({"type": "http", "headers": headers}, receive, SETTINGS)  # type: ignore[arg-type]
    anyio.run(body.discard_rest)
    assert (sent - len(left), body.complete) == (read, sent == read)


def test_only_the_sites_of_the_setting_may_call_the_server(client: TestClient) -> None:
    origin = {"Origin": "https://app.example"}
    assert "access-control-allow-origin" not in client.get("/healthz", headers=origin).headers
    with served(cors_origins=("https://app.example",), token=Settings(token="x").token) as other:
        response = other.get("/healthz", headers=origin)
        assert response.headers["access-control-allow-origin"] == "https://app.example"
        preflight = {
            **origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        }
        assert other.options("/v1/predict", headers=preflight).status_code == 200
        assert (
            "access-control-allow-origin"
            not in other.get("/healthz", headers={"Origin": "https://no.example"}).headers
        )
