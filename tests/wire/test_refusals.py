"""Every way to send something wrong ends in a problem document, and the service goes on."""

from collections.abc import Iterator

import httpx
import pytest

from fakes import encode, make_photo
from image_files import animated_webp, png_bomb
from posegate.api.options import MOST_TOLD
from wire.running import Service, problem_of

PHOTO = make_photo()
JPEG, PNG, WEBP = (encode(PHOTO, extension) for extension in (".jpg", ".png", ".webp"))


def flipped_bits(data: bytes) -> bytes:
    """The file with a stretch of its pixel data destroyed."""
    middle = len(data) // 2
    return data[:middle] + bytes(255 - byte for byte in data[middle : middle + 40]) + data[-20:]


@pytest.fixture
def still_serving(client: httpx.Client) -> Iterator[httpx.Client]:
    """After the test, the next good request must work."""
    yield client
    response = client.post("/v1/poses", content=JPEG)
    assert response.status_code == 200
    assert len(response.json()["people"]) == 2


BAD_IMAGES = [
    ("no bytes", b"", 415),
    ("text named .jpg", b"these are words, not pixels\n" * 50, 415),
    ("another image format", b"GIF89a" + bytes(200), 415),
    ("JPEG cut in half", JPEG[: len(JPEG) // 2], 422),
    ("JPEG cut in its header", JPEG[:30], 422),
    ("JPEG without its last bytes", JPEG[:-30], 422),
    ("PNG cut in half", PNG[: len(PNG) // 2], 422),
    ("PNG cut in its header", PNG[:20], 422),
    ("PNG with destroyed pixels", flipped_bits(PNG), 422),
    ("WebP cut in half", WEBP[: len(WEBP) // 2], 422),
    ("WebP cut in its header", WEBP[:14], 422),
    ("animated WebP", animated_webp(2), 422),
    ("PNG of no pixels", PNG[:16] + bytes(8) + PNG[24:], 422),
]


@pytest.mark.parametrize(("data", "status"), [row[1:] for row in BAD_IMAGES], ids=lambda _: "")
def test_bad_image_is_refused_raw_and_in_a_part(
    still_serving: httpx.Client, data: bytes, status: int
):
    raw = still_serving.post("/v1/poses", content=data, headers={"content-type": "image/jpeg"})
    part = still_serving.post("/v1/poses", files={"image": ("photo.jpg", data, "image/jpeg")})
    assert problem_of(raw, status, "bad-image")["detail"] == part.json()["detail"]
    assert part.status_code == status


@pytest.mark.parametrize("data", [flipped_bits(JPEG), flipped_bits(WEBP)], ids=["jpeg", "webp"])
def test_corrupt_pixels_never_break_the_service(still_serving: httpx.Client, data: bytes):
    """Lossy formats may hide damage: either a picture came of it or a problem says it did not."""
    response = still_serving.post("/v1/poses", content=data)
    if response.status_code != 200:
        problem_of(response, 422, "bad-image")


def test_png_bomb_is_refused_at_once_and_costs_no_memory(
    still_serving: httpx.Client, service: Service
):
    bomb = png_bomb(12_000)
    assert len(bomb) < 1_000_000
    still_serving.post("/v1/poses", content=JPEG)
    before = service.rss_bytes()
    responses = [still_serving.post("/v1/poses", content=bomb) for _ in range(10)]
    for response in responses:
        assert "12000 x 12000" in str(problem_of(response, 413, "too-large")["detail"])
    assert min(response.elapsed.total_seconds() for response in responses) < 0.05
    assert service.rss_bytes() - before < 20 * 2**20


@pytest.mark.parametrize(
    "query",
    [
        "min_score=7",
        "min_score=nan",
        "min_score=much",
        "min_keypoint_score=-1",
        "max_people=0",
        "max_people=1000000000",
        "decode=best",
        "format=xml",
        "flip_test=perhaps",
        "boxes=[[1,2,-3,4]]",  # negative width
        "boxes=[[1,2,0,4]]",  # no width
        "boxes=[[NaN,2,3,4]]",
        "boxes=[[Infinity,2,3,4]]",
        "boxes=[[1e400,2,3,4]]",
        "boxes=[[1,2,3]]",
        "boxes=[[1,2,3,true]]",
        "boxes=[1,2,3,4]",
        "boxes={}",
        "boxes=" + "[" * 3000,
        "boxes=[[1,2,3,4]" + ",[1,2,3,4]" * 60 + "]",  # more than max_people
        "boxes=[[1" + "0" * 400 + ",2,3,4]]",  # an integer beyond any float
        "boxes=",
    ],
)
def test_bad_option_is_refused_before_the_picture_is_looked_at(
    still_serving: httpx.Client, query: str
):
    for route in ("/v1/poses", "/v1/poses:batch"):
        response = still_serving.post(f"{route}?{query}", content=b"no picture")
        detail = str(problem_of(response, 422, "bad-option")["detail"])
        assert query.partition("=")[0] in detail


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("min_score=0.1&min_score=0.9", "'min_score' is given twice"),
        ("decode=dark&min_score=0.5&decode=dark", "'decode' is given twice"),
        ("max_people=1&max_people=2&max_people=3", "'max_people' is given 3 times"),
    ],
)
def test_an_option_given_twice_is_refused(still_serving: httpx.Client, query: str, told: str):
    for route in ("/v1/poses", "/v1/poses:batch"):
        response = still_serving.post(f"{route}?{query}", content=b"no picture")
        assert told in str(problem_of(response, 422, "bad-option")["detail"])


def test_unknown_option_is_refused_and_the_known_ones_are_named(still_serving: httpx.Client):
    response = still_serving.post("/v1/poses?minscore=0.5", content=JPEG)
    detail = str(problem_of(response, 422, "bad-option")["detail"])
    assert "minscore" in detail
    assert "min_score, min_keypoint_score, max_people, boxes" in detail


def test_of_many_unknown_options_the_first_are_named(still_serving: httpx.Client):
    options = {f"nonsense-{number}": 1 for number in range(1000)}
    response = still_serving.post("/v1/poses", params=options, content=JPEG)
    detail = str(problem_of(response, 422, "bad-option")["detail"])
    assert "'nonsense-0' is unknown" in detail
    assert detail.count("nonsense") == MOST_TOLD


@pytest.mark.parametrize("query", ["model=nope", "detector=nope", "model=made-detector"])
def test_unknown_model_is_refused_and_the_known_ones_are_named(
    still_serving: httpx.Client, query: str
):
    response = still_serving.post(f"/v1/poses?{query}", content=JPEG)
    assert "made-" in str(problem_of(response, 404, "unknown-model")["detail"])


@pytest.mark.parametrize("kind", ["text/plain", "application/json", "video/mp4"])
def test_declared_type_that_is_no_image_is_refused(still_serving: httpx.Client, kind: str):
    response = still_serving.post("/v1/poses", content=JPEG, headers={"content-type": kind})
    assert kind in str(problem_of(response, 415, "bad-image")["detail"])


@pytest.mark.parametrize(
    ("route", "kind", "body", "status", "slug"),
    [
        # no boundary at all
        ("/v1/poses", "multipart/form-data", b"x", 422, "bad-image"),
        # boundary that does not occur
        ("/v1/poses", "multipart/form-data; boundary=a", b"x", 422, "bad-image"),
        # boundary longer than the standard allows
        ("/v1/poses", "multipart/form-data; boundary=" + "a" * 500, b"x", 422, "bad-image"),
        # ends in the middle of a part
        (
            "/v1/poses",
            "multipart/form-data; boundary=a",
            b'--a\r\nContent-Disposition: form-data; name="image"\r\n\r\nhalf',
            422,
            "bad-image",
        ),
        # no part
        ("/v1/poses", "multipart/form-data; boundary=a", b"--a--\r\n", 422, "bad-image"),
        # part of another name
        (
            "/v1/poses",
            "multipart/form-data; boundary=a",
            b'--a\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n--a--\r\n',
            422,
            "bad-option",
        ),
        # a batch that is not multipart
        ("/v1/poses:batch", "image/jpeg", JPEG, 415, "bad-image"),
    ],
)
def test_bad_multipart_is_refused(
    still_serving: httpx.Client, route: str, kind: str, body: bytes, status: int, slug: str
):
    response = still_serving.post(route, content=body, headers={"content-type": kind})
    problem_of(response, status, slug)


def test_two_parts_are_too_many_for_one_picture(still_serving: httpx.Client):
    files = [("image", ("a.jpg", JPEG)), ("image", ("b.jpg", JPEG))]
    problem = problem_of(still_serving.post("/v1/poses", files=files), 422, "bad-option")
    assert "/v1/poses:batch" in str(problem["detail"])
    response = still_serving.post("/v1/poses:batch", files=files * 17)
    assert "at most 32" in (detail := str(problem_of(response, 422, "bad-option")["detail"]))
    assert ":batch" not in detail


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon", ""])
def test_bad_timeout_header_is_refused(still_serving: httpx.Client, text: str):
    response = still_serving.post("/v1/poses", content=JPEG, headers={"x-request-timeout": text})
    assert "X-Request-Timeout" in str(problem_of(response, 422, "bad-option")["detail"])


def test_address_and_method_that_do_not_exist_get_problems(still_serving: httpx.Client):
    for path in ("/v2/poses", "/v1/poses/", "/web/../server.py", "/v1/models/", "/%00"):
        problem_of(still_serving.get(path), 404, "not-found")
    response = still_serving.get("/v1/poses")
    problem_of(response, 405, "method-not-allowed")
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("route", ["/v1/poses", "/v1/poses:batch"])
def test_a_compressed_body_is_told_as_such(still_serving: httpx.Client, route: str):
    headers = {"content-encoding": "gzip"}
    response = still_serving.post(route, files={"image": ("a.jpg", JPEG)}, headers=headers)
    problem = problem_of(response, 415, "bad-image")
    assert "content-encoding 'gzip' is not taken; send the picture's bytes" in problem["detail"]
