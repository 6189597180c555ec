"""The OpenAPI document against the server: the server answers what it allows, and refuses what it forbids."""

import tempfile
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from factories_serving import PROBLEM
from factories_voices import model_without_voices, voice_model
from hypothesis import HealthCheck, settings
from schemathesis.checks import negative_data_rejection, positive_data_acceptance

from emodistill.inference.model_card import CoveragePoint
from emodistill.serving.app import create_app
from emodistill.serving.settings import Settings

with tempfile.TemporaryDirectory() as folder:
    point = CoveragePoint(min_confidence=0.1, coverage=1.0, accuracy=1.0)
    plain = str(model_without_voices(Path(folder) / "plain", coverage=(point,)))
    APP = create_app(Settings(threads=2, max_bytes=2_000_000, models=(plain,)))
    model = str(voice_model(Path(folder) / "voices", coverage=(point,)))
    VOICE_APP = create_app(Settings(threads=2, models=(model,)))
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", APP)
VOICE_SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", VOICE_APP)


@SCHEMA.parametrize()
@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_the_server_behaves_as_documented(case: schemathesis.Case) -> None:
    check(case, APP)


@VOICE_SCHEMA.include(path_regex="predict|timeline|voices").parametrize()
@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_a_server_with_voices_behaves_as_documented(case: schemathesis.Case) -> None:
    if isinstance(case.body, dict):  # a generated voice is never valid
        case.body.pop("voice", None)
        case.body.pop("voice_name", None)
    check(case, VOICE_APP)


# A schema cannot say which of their values are valid: segments as a file, whole numbers of hops, other names.
BEYOND_SCHEMAS = ("segments", "hop", "window", "names")


def check(case: schemathesis.Case, app: Any) -> None:
    if isinstance(case.body, dict):
        for name in BEYOND_SCHEMAS:
            case.body.pop(name, None)
    excluded: list[Any] = [negative_data_rejection] if is_valid_once_encoded(case, app) else []
    if case.path in ("/v1/voices", "/v1/audio"):  # generated files hold no speech, so there is no voice
        excluded.append(positive_data_acceptance)
    case.call_and_validate(excluded_checks=excluded)


def is_valid_once_encoded(case: schemathesis.Case, app: Any) -> bool:
    """Whether the errors of a body disappear when it is encoded as a form, because a form has no types.

    A number or an object in place of a file becomes a file with this text. An empty list becomes no field.
    All other fields must be valid.
    """
    if (
        case.media_type != "multipart/form-data"
        or not isinstance(case.body, dict)
        or not case.body.get("files")
    ):
        return False
    document = app.openapi()
    content = document["paths"][case.path]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    properties = document["components"]["schemas"][content["$ref"].rpartition("/")[2]]["properties"]
    known = {
        name: schema for name, schema in properties.items() if name not in ("files", "voice", "voice_name")
    }
    others = {name: value for name, value in case.body.items() if name != "files" and value != []}
    return isinstance(case.body["files"], list) and jsonschema_rs.is_valid(
        {"properties": known, "additionalProperties": False}, others
    )


def test_the_document_is_complete() -> None:
    document = APP.openapi()
    assert set(document["paths"]) == {
        "/v1/predict",
        "/v1/timeline",
        "/v1/audio",
        "/v1/jobs",
        "/v1/jobs/{job}",
        "/v1/jobs/{job}/result",
        "/v1/models",
        "/healthz",
        "/readyz",
        "/metrics",
    }
    assert "voice" not in str(document["paths"]["/v1/predict"]["post"]["requestBody"])
    document = VOICE_APP.openapi()
    for operations in document["paths"].values():
        for operation in operations.values():
            assert operation["summary"]
            assert operation["description"]
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    assert set(response["content"]) == {PROBLEM}
                else:
                    assert int(status) == 204 or response["content"]
    for path in ("/v1/predict", "/v1/timeline"):
        content = document["paths"][path]["post"]["responses"]["200"]["content"]
        assert all("example" in media_type for media_type in content.values())
    assert "securitySchemes" not in document["components"]
    locked = create_app(Settings(threads=1, token="x")).openapi()  # type: ignore[arg-type]
    assert locked["paths"]["/v1/predict"]["post"]["security"] == [{"token": []}]
    assert "security" not in locked["paths"]["/healthz"]["get"]


def test_the_examples_have_the_shape_of_real_answers() -> None:
    from emodistill.serving.schemas import PREDICTION_EXAMPLE, TIMELINE_EXAMPLE, PredictionRow, TimelineRow

    PredictionRow.model_validate(PREDICTION_EXAMPLE)
    TimelineRow.model_validate(TIMELINE_EXAMPLE)
    assert sum(PREDICTION_EXAMPLE["probabilities"].values()) == pytest.approx(1)
