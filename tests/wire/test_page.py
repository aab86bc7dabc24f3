"""The page in a real browser: a photo chosen, skeletons on the canvas, problems shown."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest

from fakes import POSE_NAME, encode, make_photo
from image_files import animated_webp, encoded, exif_block, gradient, webp_with_exif
from wire.running import Service, running_service

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
sync_api.expect.set_options(timeout=60_000)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator["sync_api.Browser"]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def opened(
    browser: "sync_api.Browser", service: Service, **context: bool
) -> Iterator["sync_api.Page"]:
    """The open page; nothing may come from another address and no script may fail."""
    page = browser.new_page(viewport={"width": 1280, "height": 860}, **context)
    foreign: list[str] = []
    faults: list[str] = []
    page.on("request", lambda request: foreign.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(service.url)
    yield page
    page.close()
    assert [url for url in foreign if not url.startswith((service.url, "blob:", "data:"))] == []
    assert faults == []


@pytest.fixture
def page(browser: "sync_api.Browser", service: Service) -> Iterator["sync_api.Page"]:
    with opened(browser, service) as page:
        yield page


@pytest.fixture
def photo_file(tmp_path: Path) -> Path:
    file = tmp_path / "photo.jpg"
    file.write_bytes(encode(make_photo(width=640, height=480), ".jpg"))
    return file


def choose(page: "sync_api.Page", file: Path, *, words: str = "people in") -> None:
    page.set_input_files("#file", file)
    sync_api.expect(page.locator("#summary")).to_contain_text(words)


def drop(page: "sync_api.Page", file: Path, *names: str) -> None:
    """The file, dropped on the page once under each name, all together."""
    page.evaluate(
        """([bytes, names]) => {
            const transfer = new DataTransfer();
            for (const name of names) {
                transfer.items.add(new File([new Uint8Array(bytes)], name, { type: "image/jpeg" }));
            }
            const event = new DragEvent("drop", { dataTransfer: transfer, bubbles: true });
            document.getElementById("drop").dispatchEvent(event);
        }""",
        [list(file.read_bytes()), names],
    )


def drop_files(page: "sync_api.Page", *paths: Path) -> None:
    """Files and folders of the disk, as a hand drops them."""
    session = page.context.new_cdp_session(page)
    place = page.locator("#drop").bounding_box()
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        event = {"type": kind, "x": place["x"] + 5, "y": place["y"] + 5, "data": data}
        session.send("Input.dispatchDragEvent", event)


def canvas_pixels(page: "sync_api.Page") -> np.ndarray:
    data = page.locator("#canvas").screenshot()
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def test_photo_shows_skeletons_times_and_people(page: "sync_api.Page", photo_file: Path):
    sync_api.expect(page.locator("#ready")).to_have_text("ready")
    choose(page, photo_file, words="2 people in 640")
    drawn = canvas_pixels(page)
    plain = cv2.resize(cv2.imread(str(photo_file)), (drawn.shape[1], drawn.shape[0]))
    changed = (np.abs(drawn.astype(int) - plain).max(axis=2) > 60).mean()
    assert 0.005 < changed < 0.3
    stages = page.locator("#stages tbody tr td:first-child").all_inner_texts()
    assert stages == [
        "read", "decode", "detect", "crop", "queue", "infer", "keypoints", "encode",
    ]  # fmt: skip
    assert page.locator("#people li").count() == 2
    assert page.locator("#problem").is_hidden()


def test_photo_can_be_dropped(page: "sync_api.Page", photo_file: Path):
    drop(page, photo_file, "p.jpg")
    sync_api.expect(page.locator("#summary")).to_contain_text("2 people")


def test_a_folder_that_is_dropped_is_told_from_a_photo(
    page: "sync_api.Page", photo_file: Path, tmp_path: Path
):
    folder = tmp_path / "folder"
    folder.mkdir()
    drop_files(page, folder)
    sync_api.expect(page.locator("#problem")).to_contain_text("That is a folder")
    drop_files(page, folder, photo_file)
    sync_api.expect(page.locator("#summary")).to_contain_text("2 people")


def test_joint_under_the_pointer_is_named(
    page: "sync_api.Page", photo_file: Path, client: httpx.Client
):
    choose(page, photo_file)
    answer = client.post("/v1/poses", content=photo_file.read_bytes()).json()
    nose_x, nose_y, _ = answer["people"][0]["keypoints"]["nose"]
    size = page.locator("#canvas").bounding_box()
    scale = size["width"] / 640
    page.mouse.move(size["x"] + nose_x * scale + 2, size["y"] + nose_y * scale + 2)
    tip = page.locator("#tip")
    sync_api.expect(tip).to_contain_text("nose")
    tip.evaluate("node => { node.style.pointerEvents = 'auto'; }")
    corner = "const { x, y } = node.getBoundingClientRect()"
    seen = f"node => {{ {corner}; return document.elementFromPoint(x + 4, y + 4) === node; }}"
    assert tip.evaluate(seen)  # no edge cuts it off


def test_joint_under_a_finger_is_named(
    browser: "sync_api.Browser", service: Service, photo_file: Path, client: httpx.Client
):
    answer = client.post("/v1/poses", content=photo_file.read_bytes()).json()
    nose_x, nose_y, _ = answer["people"][0]["keypoints"]["nose"]
    with opened(browser, service, has_touch=True) as page:
        choose(page, photo_file)
        size = page.locator("#canvas").bounding_box()
        scale = size["width"] / 640
        page.touchscreen.tap(size["x"] + nose_x * scale, size["y"] + nose_y * scale)
        sync_api.expect(page.locator("#tip")).to_contain_text("nose")


def test_the_name_of_a_joint_beside_an_edge_is_not_cut_off(
    page: "sync_api.Page", photo_file: Path, client: httpx.Client
):
    page.set_viewport_size({"width": 320, "height": 640})
    choose(page, photo_file)
    people = client.post("/v1/poses", content=photo_file.read_bytes()).json()["people"]
    joints = sorted(joint for person in people for joint in person["keypoints"].values())
    size = page.locator("#canvas").bounding_box()
    scale = size["width"] / 640
    for x, y, _ in (joints[0], joints[-1]):
        page.mouse.move(size["x"] + x * scale, size["y"] + y * scale)
        tip = page.locator("#tip")
        sync_api.expect(tip).to_be_visible()
        place = tip.bounding_box()
        assert place["x"] >= 0
        assert place["x"] + place["width"] <= 320


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_webp_is_shown_upright_as_the_service_sees_it(
    page: "sync_api.Page", client: httpx.Client, orientation: int, order: str
):
    """Chromium itself does not turn WebP. The canvas is compared with the service's drawing."""
    photo = webp_with_exif(
        encoded(".webp", gradient(96, 64)), 96, 64, exif_block(orientation, order)
    )
    headers = {"Accept": "image/png"}
    upright = client.post("/v1/poses", content=photo, params={"min_score": 1}, headers=headers)
    expected = cv2.imdecode(np.frombuffer(upright.content, np.uint8), cv2.IMREAD_COLOR)
    page.locator("#min_score").fill("1")
    page.set_input_files("#file", {"name": "p.webp", "mimeType": "image/webp", "buffer": photo})
    sync_api.expect(page.locator("#summary")).to_contain_text("0 people")
    shown = canvas_pixels(page)
    sides = (shown.shape[1], shown.shape[0])
    assert np.abs(shown.astype(int) - cv2.resize(expected, sides)).mean() < 6


def test_of_several_photos_the_first_is_taken_and_that_is_said(
    page: "sync_api.Page", photo_file: Path
):
    drop(page, photo_file, "a.jpg", "b.jpg")
    sync_api.expect(page.locator("#summary")).to_contain_text("First of 2 photos: 2 people")


def test_a_list_of_networks_that_is_late_is_asked_for_once(page: "sync_api.Page", service: Service):
    held: list[sync_api.Route] = []
    page.route("**/v1/models", lambda route: held.append(route))
    with page.expect_response("**/readyz"):
        page.goto(service.url)
    page.wait_for_timeout(500)
    assert len(held) == 1
    held[0].continue_()
    sync_api.expect(page.locator("#model option")).to_have_count(1)


def test_networks_can_be_chosen_once_the_service_answers(
    browser: "sync_api.Browser", service: Service
):
    page = browser.new_page()
    page.route("**/v1/models", lambda route: route.abort())
    page.goto(service.url)
    sync_api.expect(page.locator("#problem")).to_be_visible()
    page.unroute("**/v1/models")
    sync_api.expect(page.locator("#model")).to_have_value(POSE_NAME)
    page.close()


def test_options_ask_again(page: "sync_api.Page", photo_file: Path):
    sync_api.expect(page.locator("#model")).to_have_value(POSE_NAME)
    choose(page, photo_file, words="2 people")
    page.locator("#min_score").fill("0.7")
    sync_api.expect(page.locator("#summary")).to_contain_text("1 person")
    assert page.locator("#min_score_value").inner_text() == "0.70"
    page.locator("#min_keypoint_score").fill("1")
    sync_api.expect(page.locator("#min_keypoint_score_value")).to_have_text("1.00")


def test_problem_is_shown_and_the_next_photo_works(
    page: "sync_api.Page", photo_file: Path, tmp_path: Path
):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"these are words")
    choose(page, broken, words="No answer.")
    sync_api.expect(page.locator("#problem")).to_contain_text("not a JPEG, PNG or WebP")
    sync_api.expect(page.locator("#problem")).to_contain_text("415 bad-image")
    choose(page, photo_file, words="2 people")
    assert page.locator("#problem").is_hidden()


def test_what_became_of_a_photo_is_seen_without_scrolling(
    page: "sync_api.Page", photo_file: Path, tmp_path: Path
):
    page.set_viewport_size({"width": 1280, "height": 720})
    choose(page, photo_file, words="2 people")
    sync_api.expect(page.locator("#summary")).to_be_in_viewport()
    animation = tmp_path / "animation.webp"
    animation.write_bytes(animated_webp(frames=3, width=640, height=480))
    choose(page, animation, words="No answer.")
    sync_api.expect(page.locator("#canvas")).to_be_visible()
    sync_api.expect(page.locator("#problem")).to_be_in_viewport(ratio=1)


@pytest.mark.parametrize("kind", ["application/pdf", "text/plain", "video/mp4"])
def test_a_file_is_judged_by_its_bytes(page: "sync_api.Page", photo_file: Path, kind: str):
    page.set_input_files("#file", {"name": "file", "mimeType": kind, "buffer": b"no picture"})
    sync_api.expect(page.locator("#problem")).to_contain_text("not a JPEG, PNG or WebP image")
    photo = photo_file.read_bytes()
    page.set_input_files("#file", {"name": "photo", "mimeType": kind, "buffer": photo})
    sync_api.expect(page.locator("#summary")).to_contain_text("2 people")


def test_an_answer_that_comes_late_is_not_the_next_photo_s(
    page: "sync_api.Page", photo_file: Path, tmp_path: Path
):
    held: list[sync_api.Route] = []
    page.route("**/v1/poses?*", lambda route: held.append(route))
    page.set_input_files("#file", photo_file)
    sync_api.expect(page.locator("#summary")).to_have_text("Looking for people…")
    page.evaluate("void (HTMLImageElement.prototype.decode = () => new Promise(() => {}))")
    next_photo = tmp_path / "next.jpg"
    next_photo.write_bytes(photo_file.read_bytes())
    page.set_input_files("#file", next_photo)
    with page.expect_response("**/v1/poses?*"):
        held[0].continue_()
    page.wait_for_timeout(300)
    assert page.locator("#download").is_disabled()
    assert not page.locator("#people li").count()


def test_the_former_answer_is_not_told_while_the_next_is_awaited(
    page: "sync_api.Page", photo_file: Path
):
    choose(page, photo_file, words="2 people")
    held: list[sync_api.Route] = []
    page.route("**/v1/poses?*", lambda route: held.append(route))
    page.locator("#decode").select_option("argmax")
    summary = page.locator("#summary")
    sync_api.expect(summary).to_have_text("Looking for people…")
    page.evaluate("window.dispatchEvent(new Event('resize'))")
    page.locator("#min_keypoint_score").fill("0.5")
    assert summary.inner_text() == "Looking for people…"
    held[0].continue_()
    sync_api.expect(summary).to_contain_text("2 people")


def test_an_answer_that_nobody_waits_for_is_no_longer_asked_for(
    page: "sync_api.Page", photo_file: Path
):
    choose(page, photo_file, words="2 people")
    page.route("**/v1/poses?*decode=argmax*", lambda route: None)  # a service that takes its time
    page.locator("#decode").select_option("argmax")
    sync_api.expect(page.locator("#summary")).to_have_text("Looking for people…")
    with page.expect_event("requestfailed", timeout=10_000) as ended:
        page.locator("#decode").select_option("quarter")
    assert "decode=argmax" in ended.value.url
    sync_api.expect(page.locator("#summary")).to_contain_text("2 people")
    assert page.locator("#problem").is_hidden()


@pytest.mark.parametrize(
    ("status", "kind", "body"),
    [
        (413, "text/html", "<h1>nginx</h1>"),  # its limit of a body is lower
        (502, "application/json", '{"message": "no upstream"}'),  # a gateway's own form
        (200, "text/html", "<h1>Log in</h1>"),  # of a network that wants a password first
    ],
)
def test_a_proxy_that_answers_itself_is_told_from_the_service(
    page: "sync_api.Page", photo_file: Path, status: int, kind: str, body: str
):
    page.route(
        "**/v1/poses?*",
        lambda route: route.fulfill(status=status, content_type=kind, body=body),
    )
    choose(page, photo_file, words="No answer.")
    problem = page.locator("#problem")
    sync_api.expect(problem).to_contain_text("a proxy before it may have limits of its own")
    sync_api.expect(problem).to_contain_text(str(status))


@pytest.mark.parametrize("change", [Path.unlink, lambda file: os.utime(file, (0, 0))])
def test_a_photo_that_is_gone_is_told_from_a_service_that_is(
    page: "sync_api.Page", photo_file: Path, change: Callable[[Path], None]
):
    choose(page, photo_file, words="2 people")
    change(photo_file)
    page.locator("#decode").select_option("argmax")
    sync_api.expect(page.locator("#problem")).to_contain_text("can no longer be read")
    assert page.locator("#summary").inner_text() == "No answer."


def test_a_picture_without_an_answer_is_not_said_to_have_skeletons(
    page: "sync_api.Page", photo_file: Path
):
    choose(page, photo_file, words="2 people")
    canvas = page.locator("#canvas")
    sync_api.expect(canvas).to_have_attribute("aria-label", "Photo with 2 skeletons")
    page.route("**/v1/poses?*", lambda route: route.abort())
    page.locator("#decode").select_option("argmax")
    sync_api.expect(page.locator("#summary")).to_have_text("No answer.")
    sync_api.expect(canvas).to_have_attribute("aria-label", "Photo", timeout=5_000)


def test_the_same_photo_can_be_chosen_again(page: "sync_api.Page", photo_file: Path):
    choose(page, photo_file, words="2 people")
    with page.expect_file_chooser():
        page.locator("#file").click()
    assert page.locator("#file").input_value() == ""  # so that any choice is a change


def test_where_there_is_no_camera_the_photo_stays(page: "sync_api.Page", photo_file: Path):
    choose(page, photo_file, words="2 people")
    page.locator("#camera").click()
    sync_api.expect(page.locator("#problem")).to_contain_text("No camera")
    sync_api.expect(page.locator("#camera")).to_have_text("Use the camera")
    assert "2 people" in page.locator("#summary").inner_text()
    page.locator("#min_score").fill("0.7")
    sync_api.expect(page.locator("#summary")).to_contain_text("1 person")
    assert page.locator("#problem").is_hidden()


def test_people_are_shown_to_the_keyboard_too(page: "sync_api.Page", photo_file: Path):
    choose(page, photo_file, words="2 people")
    plain = canvas_pixels(page)
    page.locator("#people li").first.focus()
    assert (canvas_pixels(page) != plain).any()
    page.locator("#people li").first.blur()
    assert (canvas_pixels(page) == plain).all()


def test_the_focus_stays_where_it_is_when_the_window_is_resized(
    page: "sync_api.Page", photo_file: Path
):
    choose(page, photo_file, words="2 people")
    person = page.locator("#people li").last
    person.focus()
    page.evaluate("window.dispatchEvent(new Event('resize'))")
    sync_api.expect(person).to_be_focused()


def test_a_service_with_keys_is_given_one(
    browser: "sync_api.Browser", repository: Path, photo_file: Path, tmp_path: Path
):
    known = hashlib.sha256(b"secret").hexdigest()
    log = tmp_path / "log"
    with (
        running_service(repository, log, api_key_sha256=known) as service,
        opened(browser, service) as page,
    ):
        problem = page.locator("#problem")
        sync_api.expect(problem).to_contain_text("API key needed")
        sync_api.expect(page.locator("#access")).to_contain_text(
            "cannot send a key with the camera"
        )
        page.locator("#key").fill("wrong")
        page.locator("#key").press("Enter")
        choose(page, photo_file, words="No answer.")
        sync_api.expect(problem).to_contain_text("401 unauthenticated")
        page.locator("#key").fill("secret")
        page.locator("#access button").click()
        sync_api.expect(page.locator("#summary")).to_contain_text("2 people in 640")
        assert problem.is_hidden()
        assert page.locator("#model").input_value() == POSE_NAME
        assert page.evaluate("localStorage.length + sessionStorage.length") == 0
        page.reload()
        sync_api.expect(problem).to_contain_text("API key needed")


def test_a_key_may_hold_any_letter(
    browser: "sync_api.Browser", repository: Path, photo_file: Path, tmp_path: Path
):
    key = "ключ à"  # the last of its UTF-8 bytes is a space in Latin-1
    known = hashlib.sha256(key.encode()).hexdigest()
    with (
        running_service(repository, tmp_path / "log", api_key_sha256=known) as service,
        opened(browser, service) as page,
    ):
        problem = page.locator("#problem")
        sync_api.expect(problem).to_contain_text("API key needed")
        page.locator("#key").fill("half\x01key")
        page.locator("#key").press("Enter")
        sync_api.expect(problem).to_contain_text("control characters")
        page.locator("#key").fill(f" {key}\t")
        page.locator("#key").press("Enter")
        sync_api.expect(page.locator("#model")).to_have_value(POSE_NAME)
        choose(page, photo_file, words="2 people")
        assert problem.is_hidden()


def test_no_key_is_asked_for_where_none_is_needed(page: "sync_api.Page"):
    sync_api.expect(page.locator("#model")).to_have_value(POSE_NAME)
    assert page.locator("#access").is_hidden()


def test_every_control_has_a_label(page: "sync_api.Page"):
    for control in page.locator("input, select, button").all():
        name = control.evaluate("node => node.labels?.[0]?.innerText || node.innerText")
        assert name or control.get_attribute("aria-label")


def test_narrow_screen_does_not_scroll_sideways(page: "sync_api.Page", photo_file: Path):
    page.set_viewport_size({"width": 380, "height": 800})
    choose(page, photo_file)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_docs_can_be_read_on_a_phone(page: "sync_api.Page", service: Service):
    page.set_viewport_size({"width": 320, "height": 640})
    page.goto(f"{service.url}/docs")
    page.locator(".route").nth(1).wait_for()
    hidden = page.evaluate(
        """() => {
            for (const route of document.querySelectorAll(".route")) route.open = true;
            const scrolls = (node) => node && (
                getComputedStyle(node).overflowX === "auto" || scrolls(node.parentElement));
            return [...document.querySelectorAll(".route table")]
                .filter((table) => table.getBoundingClientRect().right > innerWidth)
                .filter((table) => !scrolls(table)).length;
        }"""
    )
    assert hidden == 0


def test_docs_list_routes_options_and_examples(page: "sync_api.Page", service: Service):
    page.goto(f"{service.url}/docs")
    sync_api.expect(page.locator(".route").first).to_contain_text("/v1/poses")
    text = page.locator("body").inner_text()
    for word in ("/v1/poses:batch", "min_keypoint_score", "image/webp", "Too many requests"):
        assert word in text
    assert "Authorization: Bearer KEY or as X-API-Key: KEY" in text
    stream = page.locator(".route", has_text="/v1/stream").text_content() or ""
    for word in ("detect_every", "first message", '{"end": true}', "example: tracked", "426"):
        assert word in stream
