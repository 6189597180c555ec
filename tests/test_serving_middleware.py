"""Who gets in, how often, and how many at a time."""

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
    with TestClient(create_app(SETTINGS)) as made:
        yield made


def served(**options: Any) -> TestClient:
    """Another server."""
    return TestClient(create_app(SETTINGS.model_copy(update=options)))


def test_a_token_is_wanted_where_there_is_one() -> None:
    with served(token=Settings(token="s3cret").token) as client:
        said = client.get("/v1/models")
        assert problem(said, 401)
        assert said.headers["www-authenticate"].startswith("Bearer")
        for wrong in ("Bearer no", "Bearer", "Basic s3cret", "s3cret", "Bearer s3cret s3cret"):
            problem(client.get("/v1/models", headers={"Authorization": wrong}), 401)
        problem(client.get("/metrics"), 401)
        assert client.get("/v1/models", headers={"Authorization": "Bearer s3cret"}).status_code == 200
        assert client.get("/healthz").status_code == 200


def test_a_client_may_ask_so_often() -> None:
    with served(rate_per_minute=2) as client:
        assert [client.get("/v1/models").status_code for _ in range(3)] == [200, 200, 429]
        said = client.get("/v1/models")
        assert problem(said, 429)["type"] == "urn:emodistill:too-many"
        assert 0 < int(said.headers["retry-after"]) <= 31
        ignored = {"X-Forwarded-For": "192.0.2.1", "Forwarded": "for=192.0.2.1", "X-Real-IP": "192.0.2.1"}
        assert client.get("/v1/models", headers=ignored).status_code == 429


def test_a_token_is_guessed_no_oftener_than_anything_else() -> None:
    with served(rate_per_minute=2, token=Settings(token="x").token) as client:
        wrong = {"Authorization": "Bearer no"}
        assert [client.get("/v1/models", headers=wrong).status_code for _ in range(3)] == [401, 401, 429]


@pytest.mark.parametrize("token", ["", "two words", "ключ", "line\nbreak"])
def test_a_token_that_protects_nothing_or_fits_no_header_is_refused(token: str) -> None:
    with pytest.raises(ConfigError, match="bad token: expected printable ASCII"):
        Settings(token=token)  # type: ignore[arg-type]


@pytest.mark.parametrize("together", [True, False])
def test_rates_fill_up_again_and_are_forgotten_when_full(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, together: bool
) -> None:
    now = 0.0
    monkeypatch.setattr("emodistill.serving.rate_limiter.time.monotonic", lambda: now)
    monkeypatch.setattr("emodistill.serving.rate_limiter.SWEEP_EVERY", 1)
    limiter = RateLimiter(60, tmp_path / "rates.sqlite" if together else None)
    assert [limiter.take_token("a") for _ in range(61)] == [0.0] * 60 + [1.0]
    now = 1.0
    assert limiter.take_token("a") == 0.0
    assert limiter.take_token("a") == 1.0
    assert limiter.take_token("b") == 0.0
    now = 61.5
    assert limiter.take_token("c") == 0.0
    assert limiter._database.execute("SELECT client FROM buckets").fetchall() == [("c",)]


def test_workers_count_rates_together_and_share_out_what_is_done_at_a_time(tmp_path: Path) -> None:
    first, second = (RateLimiter(4, tmp_path / "rates.sqlite") for _ in range(2))
    assert [limiter.take_token("a") for limiter in (first, second, first, second)] == [0.0] * 4
    assert first.take_token("a") > 10
    assert second.take_token("a") > 10
    assert second.take_token("b") == 0.0
    settings = Settings(workers=3)
    assert [settings.per_worker(limit) for limit in (64, 3, 1)] == [21, 1, 1]


def test_an_ipv6_client_cannot_be_a_new_one_at_every_address() -> None:
    limiter = RateLimiter(1)
    assert limiter.take_token("2001:db8::1") == 0.0
    assert limiter.take_token("2001:db8::ffff") > 0
    assert limiter.take_token("2001:db8:0:1::1") == 0.0
    assert limiter.take_token("192.0.2.1") == 0.0
    assert limiter.take_token("::ffff:192.0.2.1") > 0
    assert limiter.take_token("") == 0.0


def test_only_so_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(*given: Any) -> np.ndarray:
        begun.set()
        assert go_on.wait(30)
        return make.speech(1.0)

    monkeypatch.setattr(service_module, "load_bounded", slow)
    with served(max_requests=1) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/v1/predict", files=upload(SPEECH[0]))
        assert begun.wait(30)
        said = client.post("/v1/predict", files=upload(SPEECH[0]))
        assert problem(said, 503)["type"] == "urn:emodistill:busy"
        assert said.headers["retry-after"] == "1"
        assert client.get("/readyz").status_code == 200
        go_on.set()
        assert first.result().status_code == 200
        assert client.post("/v1/predict", files=upload(SPEECH[0])).status_code == 200


@pytest.mark.parametrize(("sent", "read"), [(20, 20), (500, 64)])
def test_a_refused_upload_is_read_on_for_so_long(sent: int, read: int) -> None:
    left = list(range(sent))  # MB

    async def receive() -> dict[str, Any]:
        left.pop()
        return {"type": "http.request", "body": bytes(1_000_000), "more_body": bool(left)}

    headers = [(b"content-length", b"%d" % (sent * 1_000_000))]
    body = RequestBody({"type": "http", "headers": headers}, receive, SETTINGS)  # type: ignore[arg-type]
    anyio.run(body.discard_rest)
    assert (sent - len(left), body.complete) == (read, sent == read)


def test_other_sites_are_let_in_by_name_alone(client: TestClient) -> None:
    origin = {"Origin": "https://app.example"}
    assert "access-control-allow-origin" not in client.get("/healthz", headers=origin).headers
    with served(cors_origins=("https://app.example",), token=Settings(token="x").token) as other:
        said = other.get("/healthz", headers=origin)
        assert said.headers["access-control-allow-origin"] == "https://app.example"
        ask = {
            **origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        }
        assert other.options("/v1/predict", headers=ask).status_code == 200
        assert (
            "access-control-allow-origin"
            not in other.get("/healthz", headers={"Origin": "https://no.example"}).headers
        )
