"""The OpenAPI document, against the server: whatever it allows is answered, whatever it forbids is refused."""

import jsonschema_rs
import pytest
import schemathesis
from factories_serving import PROBLEM
from hypothesis import HealthCheck, settings
from schemathesis.checks import negative_data_rejection

from emodistill.serving.app import create_app
from emodistill.serving.settings import Settings

APP = create_app(Settings(threads=2, max_bytes=2_000_000))
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", APP)


@SCHEMA.parametrize()
@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_the_server_is_as_it_is_described(case: schemathesis.Case) -> None:
    case.call_and_validate(excluded_checks=[negative_data_rejection] if is_right_on_the_wire(case) else [])


def is_right_on_the_wire(case: schemathesis.Case) -> bool:
    """Whether a body is only wrong before it is written: a form has no types.

    What stands in a file's place, a number or an object, becomes a file with these letters; an empty list becomes no
    field at all. All other fields must be as the document says.
    """
    if (
        case.media_type != "multipart/form-data"
        or not isinstance(case.body, dict)
        or not case.body.get("files")
    ):
        return False
    document = APP.openapi()
    content = document["paths"][case.path]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    properties = document["components"]["schemas"][content["$ref"].rpartition("/")[2]]["properties"]
    known = {name: of for name, of in properties.items() if name != "files"}
    others = {name: value for name, value in case.body.items() if name != "files" and value != []}
    return isinstance(case.body["files"], list) and jsonschema_rs.is_valid(
        {"properties": known, "additionalProperties": False}, others
    )


def test_it_is_complete() -> None:
    document = APP.openapi()
    assert set(document["paths"]) == {
        "/v1/predict",
        "/v1/timeline",
        "/v1/models",
        "/healthz",
        "/readyz",
        "/metrics",
    }
    for operations in document["paths"].values():
        for operation in operations.values():
            assert operation["summary"]
            assert operation["description"]
            for status, response in operation["responses"].items():
                assert set(response["content"]) == {PROBLEM} if int(status) >= 400 else response["content"]
    for path in ("/v1/predict", "/v1/timeline"):
        content = document["paths"][path]["post"]["responses"]["200"]["content"]
        assert all("example" in form for form in content.values())
    assert "securitySchemes" not in document["components"]
    locked = create_app(Settings(threads=1, token="x")).openapi()  # type: ignore[arg-type]
    assert locked["paths"]["/v1/predict"]["post"]["security"] == [{"token": []}]
    assert "security" not in locked["paths"]["/healthz"]["get"]


def test_an_example_is_what_the_recogniser_would_give() -> None:
    from emodistill.serving.schemas import PREDICTION_EXAMPLE, TIMELINE_EXAMPLE, PredictionRow, TimelineRow

    PredictionRow.model_validate(PREDICTION_EXAMPLE)
    TimelineRow.model_validate(TIMELINE_EXAMPLE)
    assert sum(PREDICTION_EXAMPLE["probabilities"].values()) == pytest.approx(1)
