"""POST /v1/poses and /v1/poses:batch answer what the contract promises, over a real socket."""

import json

import cv2
import httpx
import numpy as np
import pytest

from fakes import (
    DETECTOR_NAME,
    MADE_BOX_SCORES,
    MADE_JOINTS_CROP,
    POSE_NAME,
    POSE_SIZE_WH,
    black_photo,
    encode,
    make_photo,
)
from posegate.api.schemas import BatchAnswer, CocoResult, PosesAnswer
from posegate.geometry import apply_affine, box_to_region, invert_affine, region_to_crop_affine
from posegate.skeleton import COCO_KEYPOINTS
from wire.running import Service, problem_of

JPEG = {"content-type": "image/jpeg"}


def post(client: httpx.Client, data: bytes, query: str = "", **headers: str) -> httpx.Response:
    return client.post(f"/v1/poses{query}", content=data, headers={**JPEG, **headers})


def stable(answer: dict) -> dict:
    """The answer without its times."""
    return {name: value for name, value in answer.items() if name not in ("stages_ms", "total_ms")}


def test_accept_may_come_in_several_lines(client: httpx.Client, photo: bytes):
    lines = [("accept", "application/json;q=0.5"), ("accept", "image/png")]
    answer = client.post("/v1/poses", content=photo, headers=httpx.Headers(lines))
    assert answer.headers["content-type"] == "image/png"


def test_answer_has_the_contract_s_form_and_numbers(client: httpx.Client, photo: bytes):
    response = post(client, photo)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    PosesAnswer.model_validate(answer)
    assert answer["model"] == POSE_NAME
    assert answer["detector"] == DETECTOR_NAME
    assert answer["image"] == {"width": 160, "height": 120}
    assert [person["score"] for person in answer["people"]] == [
        pytest.approx(float(score), abs=1e-4) for score in MADE_BOX_SCORES[[0, 2]]
    ]
    for person in answer["people"]:
        assert tuple(person["keypoints"]) == COCO_KEYPOINTS
    assert sum(answer["stages_ms"].values()) == pytest.approx(answer["total_ms"], rel=0.05)
    assert list(answer["stages_ms"]) == [
        "read", "decode", "detect", "crop", "queue", "infer", "keypoints", "encode",
    ]  # fmt: skip


def test_joints_lie_where_the_network_saw_them(client: httpx.Client, photo: bytes):
    box = [30.0, 20.0, 60.0, 80.0]
    answer = post(client, photo, f"?boxes={json.dumps([box])}&decode=argmax").json()
    assert answer["detector"] is None
    assert answer["people"][0]["box"] == box
    got = np.array([row[:2] for row in answer["people"][0]["keypoints"].values()])
    xyxy = np.array([[box[0], box[1], box[0] + box[2], box[1] + box[3]]], np.float32)
    regions = box_to_region(xyxy, aspect=POSE_SIZE_WH[0] / POSE_SIZE_WH[1], padding=1.25)
    crop_to_image = invert_affine(region_to_crop_affine(regions, size_wh=POSE_SIZE_WH))
    np.testing.assert_allclose(got, apply_affine(crop_to_image, MADE_JOINTS_CROP)[0], atol=0.02)


def test_raw_and_multipart_answer_the_same(client: httpx.Client, photo: bytes):
    raw = post(client, photo).json()
    parts = client.post("/v1/poses", files={"image": ("p.jpg", photo, "image/jpeg")}).json()
    assert stable(raw) == stable(parts)


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream", "image/x-unheard-of"])
def test_bytes_decide_where_the_declared_type_does_not_help(
    client: httpx.Client, photo: bytes, kind: str
):
    assert post(client, photo, **{"content-type": kind}).status_code == 200


@pytest.mark.parametrize("extension", [".jpg", ".png", ".webp"])
def test_every_format_is_read(client: httpx.Client, extension: str):
    assert len(post(client, encode(make_photo(), extension)).json()["people"]) == 2


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 5000), (5000, 1), (2, 3)])
def test_odd_sizes_are_answered(client: httpx.Client, width: int, height: int):
    response = post(client, encode(np.full((height, width, 3), 90, np.uint8)))
    assert response.status_code == 200
    assert response.json()["image"] == {"width": width, "height": height}


def test_nobody_is_a_normal_answer(client: httpx.Client):
    answer = post(client, encode(black_photo())).json()
    assert answer["people"] == []
    assert "infer" not in answer["stages_ms"]


def test_box_outside_the_picture_is_refused(client: httpx.Client, photo: bytes):
    response = post(client, photo, "?boxes=[[10,10,20,20],[900,900,20,20]]")
    problem = problem_of(response, 422, "bad-option")
    assert "boxes[1] is [900.0, 900.0, 20.0, 20.0], wholly outside" in str(problem["detail"])
    assert len(post(client, photo, "?boxes=[[10,10,20,20]]").json()["people"]) == 1


def test_options_are_heeded(client: httpx.Client, photo: bytes):
    assert len(post(client, photo, "?min_score=0.7").json()["people"]) == 1
    assert len(post(client, photo, "?max_people=1").json()["people"]) == 1
    for query in ("?flip_test=true", "?decode=quarter", f"?model={POSE_NAME}"):
        assert len(post(client, photo, query).json()["people"]) == 2


def test_coco_form_is_ready_for_evaluation(client: httpx.Client, photo: bytes):
    results = client.post("/v1/poses?format=coco", files={"image": ("000000000139.jpg", photo)})
    rows = results.json()
    for row in rows:
        CocoResult.model_validate(row)
        assert row["image_id"] == 139
        assert len(row["keypoints"]) == 3 * len(COCO_KEYPOINTS)
    people = post(client, photo).json()["people"]
    flat = [number for joint in people[0]["keypoints"].values() for number in joint]
    assert rows[0]["keypoints"] == flat
    assert [row["score"] for row in rows] == [person["score"] for person in people]


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("image/jpeg", "image/jpeg"),
        ("image/png", "image/png"),
        ("image/png;q=0.4, image/jpeg;q=0.9", "image/jpeg"),
        ("application/json, image/png;q=0.5", "application/json"),
        ("*/*", "application/json"),
        ("text/html", "application/json"),
        ("image/jpeg;q=0, image/*", "image/png"),
        ("*/*;q=0.1, application/json;q=0, image/png;q=0.05", "image/jpeg"),
    ],
)
def test_accept_chooses_picture_or_json(client: httpx.Client, photo: bytes, accept: str, kind: str):
    response = post(client, photo, accept=accept)
    assert response.status_code == 200
    assert response.headers["content-type"] == kind
    if kind.startswith("image/"):
        drawn = cv2.imdecode(np.frombuffer(response.content, np.uint8), cv2.IMREAD_COLOR)
        plain = cv2.imdecode(np.frombuffer(photo, np.uint8), cv2.IMREAD_COLOR)
        assert drawn.shape == plain.shape
        assert np.abs(drawn.astype(int) - plain).max() > 60
        assert "encode;dur=" in response.headers["server-timing"]


def test_a_drawn_jpeg_that_cannot_be_is_a_clear_problem(client: httpx.Client):
    wide = encode(np.full((10, 70_000, 3), 128, np.uint8), ".png")
    refused = client.post("/v1/poses", content=wide, headers={"accept": "image/jpeg"})
    assert (refused.status_code, refused.json()["type"]) == (413, "too-large")
    assert "ask for image/png" in refused.json()["detail"]
    drawn = client.post("/v1/poses", content=wide, headers={"accept": "image/png"})
    assert (drawn.status_code, drawn.headers["content-type"]) == (200, "image/png")


def test_batch_answers_in_order_and_one_bad_picture_fails_alone(client: httpx.Client, photo: bytes):
    black = encode(black_photo())
    files = [("image", ("a", data)) for data in (photo, b"no picture", black, photo)]
    response = client.post("/v1/poses:batch", files=files)
    assert response.status_code == 200
    BatchAnswer.model_validate(response.json())
    first, bad, nobody, last = response.json()["results"]
    assert stable(first) == stable(last) == stable(post(client, photo).json())
    assert nobody["people"] == []
    assert (bad["type"], bad["status"]) == ("bad-image", 415)
    assert bad["request_id"] == response.headers["x-request-id"]


def test_pictures_of_a_batch_are_counted_one_by_one(
    service: Service, client: httpx.Client, photo: bytes
):
    def counted() -> tuple[float, float]:
        told = {
            name: sum(
                float(line.rsplit(" ", 1)[1])
                for line in service.metrics().splitlines()
                if line.startswith(name)
            )
            for name in ("posegate_people_per_image_count", "posegate_rejected_total")
        }
        answered, refused = told.values()
        return answered, refused

    before = counted()
    files = [("image", ("a", data)) for data in (photo, b"no picture", b"nor this", photo, photo)]
    assert client.post("/v1/poses:batch", files=files).status_code == 200
    after = counted()
    assert (after[0] - before[0], after[1] - before[1]) == (3, 2)


@pytest.mark.parametrize("missing", [5, 40, 70, 1000], ids=str)
def test_a_batch_that_is_cut_off_is_refused_whole(client: httpx.Client, photo: bytes, missing: int):
    """Its results could not be told apart from those of a batch with fewer pictures."""
    parts = [("image", (f"{n}.jpg", photo, "image/jpeg")) for n in range(3)]
    request = client.build_request("POST", "/v1/poses:batch", files=parts)
    body = request.read()[:-missing]
    headers = {"content-type": request.headers["content-type"]}
    refused = client.post("/v1/poses:batch", content=body, headers=headers)
    assert "cut off" in str(problem_of(refused, 422, "bad-image")["detail"])


def test_batch_takes_32_pictures_and_not_33(client: httpx.Client, photo: bytes):
    parts = [("image", ("a.jpg", photo))]
    assert len(client.post("/v1/poses:batch", files=parts * 32).json()["results"]) == 32
    problem = problem_of(client.post("/v1/poses:batch", files=parts * 33), 422, "bad-option")
    assert "32" in problem["detail"]


def test_batch_in_coco_form_numbers_the_pictures(client: httpx.Client, photo: bytes):
    parts = [("image", ("a.jpg", photo))] * 2
    results = client.post("/v1/poses:batch?format=coco", files=parts).json()["results"]
    assert [rows[0]["image_id"] for rows in results] == [0, 1]
