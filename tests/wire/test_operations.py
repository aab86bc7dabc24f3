"""Health, models, metrics, ids and the OpenAPI document, over a real socket."""

import re

import httpx
import pytest

from fakes import DETECTOR_NAME, POSE_NAME
from posegate.api.schemas import ModelsAnswer
from posegate.card import ModelCard
from wire.running import problem_of


def test_alive_and_ready(client: httpx.Client):
    assert client.get("/livez").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}


def test_models_are_listed_with_their_cards(client: httpx.Client):
    listed = ModelsAnswer.model_validate(client.get("/v1/models").json()).models
    assert [card.name for card in listed] == [DETECTOR_NAME, POSE_NAME]
    assert all(card.default for card in listed)
    card = client.get(f"/v1/models/{POSE_NAME}")
    assert ModelCard.model_validate(card.json()) == listed[1]
    problem = problem_of(client.get("/v1/models/nope"), 404, "unknown-model")
    assert POSE_NAME in str(problem["detail"])


def test_request_id_is_echoed(client: httpx.Client):
    response = client.get("/livez", headers={"x-request-id": "mine-42"})
    assert response.headers["x-request-id"] == "mine-42"


@pytest.mark.parametrize("bad", ["a" * 65, "two words", 'quote"', "ä".encode()])
def test_request_id_that_could_do_harm_is_replaced(client: httpx.Client, bad: str | bytes):
    made = client.get("/nope", headers={"x-request-id": bad})
    assert re.fullmatch("[0-9a-f]{32}", made.headers["x-request-id"])
    problem_of(made, 404, "not-found")


def test_metrics_count_requests_stages_people_and_refusals(client: httpx.Client, photo: bytes):
    client.post("/v1/poses", content=photo)
    client.post("/v1/poses", content=b"no picture")
    client.get("/somewhere/42")
    text = client.get("/metrics").text
    for line in (
        'posegate_request_seconds_count{code="200",face="http",route="/v1/poses"}',
        'posegate_request_seconds_count{code="415",face="http",route="/v1/poses"}',
        'posegate_request_seconds_count{code="404",face="http",route="unmatched"}',
        f'posegate_stage_seconds_count{{model="{POSE_NAME}",stage="encode"}}',
        f'posegate_stage_seconds_count{{model="{POSE_NAME}",stage="read"}}',
        "posegate_people_per_image_count",
        f'posegate_crops_per_batch_count{{model="{POSE_NAME}"}}',
        'posegate_in_flight{face="http"}',
        'posegate_rejected_total{reason="bad-image"}',
        f'model="{POSE_NAME}",precision="fp32",provider="CPUExecutionProvider",sha256="',
    ):
        assert line in text, line
    assert "/somewhere" not in text


def test_openapi_describes_every_route_option_and_problem(client: httpx.Client):
    document = client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) == {
        "/v1/poses", "/v1/poses:batch", "/v1/stream", "/v1/models", "/v1/models/{name}",
        "/livez", "/readyz", "/metrics",
    }  # fmt: skip
    post = document["paths"]["/v1/poses"]["post"]
    assert {option["name"] for option in post["parameters"]} == {
        "model", "detector", "min_score", "min_keypoint_score", "max_people", "boxes",
        "flip_test", "decode", "format", "X-Request-Timeout",
    }  # fmt: skip
    assert set(post["requestBody"]["content"]) == {
        "image/jpeg", "image/png", "image/webp", "multipart/form-data",
    }  # fmt: skip
    assert set(post["responses"]) == {
        "200", "401", "404", "413", "415", "422", "429", "500", "503", "504",
    }  # fmt: skip
    for status, answer in post["responses"].items():
        for kind, content in answer["content"].items():
            assert kind.startswith("image/") or content["examples"], (status, kind)


def test_openapi_lets_generated_clients_send_a_key(client: httpx.Client):
    document = client.get("/openapi.json").json()
    schemes = document["components"]["securitySchemes"]
    assert {scheme["type"] for scheme in schemes.values()} == {"http", "apiKey"}
    assert schemes["apiKey"]["name"] == "X-API-Key"
    for path, methods in document["paths"].items():
        for route in methods.values():
            if path.startswith("/v1/"):
                assert route["security"] == [{}, *({name: []} for name in schemes)]
                assert "401" in route["responses"]
            else:
                assert "security" not in route


def test_openapi_describes_the_stream(client: httpx.Client):
    document = client.get("/openapi.json").json()
    route = document["paths"]["/v1/stream"]["get"]
    assert set(route["responses"]) == {"101", "401", "422", "426", "429", "500", "503"}
    assert '{"end": true}' in route["description"]
    assert "max_body_bytes" in route["description"]
    examples = route["responses"]["101"]["content"]["application/json"]["examples"]
    assert {e["value"]["event"] for e in examples.values()} == {
        "result", "dropped", "error", "summary",
    }  # fmt: skip
    schemas = document["components"]["schemas"]
    name = route["x-first-message"]["$ref"].rpartition("/")[2]
    assert {"mode", "track", "detect_every", "min_score"} < set(schemas[name]["properties"])
    assert schemas["EndMessage"]["properties"]["end"] == {
        "const": True, "title": "End", "type": "boolean",
    }  # fmt: skip


def test_every_reference_of_the_document_leads_somewhere(client: httpx.Client):
    text = client.get("/openapi.json").text
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    names = set(re.findall(r'"#/components/schemas/([^"]+)"', text))
    assert "StreamEvent" in names
    assert names <= set(schemas)


def test_every_example_fits_its_schema(client: httpx.Client):
    jsonschema = pytest.importorskip("jsonschema_rs")
    document = client.get("/openapi.json").json()
    checked = 0
    for path in document["paths"].values():
        for route in path.values():
            for answer in route["responses"].values():
                for content in answer.get("content", {}).values():
                    schema = {**content.get("schema", {}), "components": document["components"]}
                    for example in content.get("examples", {}).values():
                        jsonschema.validate(schema, example["value"])
                        checked += 1
    assert checked > 20


def test_pages_come_from_the_service_alone(client: httpx.Client):
    for path in ("/", "/docs"):
        page = client.get(path)
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert not re.search(r"(src|href)=\"(https?:)?//", page.text)
        for asset in re.findall(r'(?:src|href)="(/web/[^"]+)"', page.text):
            assert client.get(asset).status_code == 200
