"""The page's camera mode in a real browser, with the browser's own made camera."""

import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from posegate.client import Client
from wire.running import Service, running_service
from wire.test_page import CHROMIUM, FLAGS, canvas_pixels, sync_api

pytestmark = pytest.mark.skipif(
    shutil.which(CHROMIUM or "") is None, reason="chromium is not installed"
)
CAMERA_FLAGS = [*FLAGS, "--use-fake-device-for-media-stream"]


@pytest.fixture
def page(service: Service) -> Iterator["sync_api.Page"]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CAMERA_FLAGS)
        context = browser.new_context(permissions=["camera"], base_url=service.url)
        page = context.new_page()
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto("/")
        yield page
        browser.close()
    assert faults == []


def test_camera_shows_live_skeletons_rate_age_and_drops(page: "sync_api.Page"):
    button = page.locator("#camera")
    button.click()
    live = page.locator("#live")
    sync_api.expect(live).to_have_text(
        re.compile(r"^[1-9][\d.]* frames/s, age \d+ ms, \d+ dropped$")
    )
    sync_api.expect(page.locator("#summary")).to_contain_text("2 people in 640")
    assert page.locator("#people li").count() == 2
    assert page.locator("#problem").is_hidden()
    assert canvas_pixels(page).std() > 10
    page.locator("#min_score").fill("0.7")  # options reach the running camera
    sync_api.expect(page.locator("#summary")).to_contain_text("1 person")
    button.click()
    sync_api.expect(button).to_have_text("Use the camera")
    assert page.locator("#problem").is_hidden()


def test_the_detector_may_look_at_some_frames_only(page: "sync_api.Page"):
    detect = page.locator("#stages tbody td", has_text=re.compile("^detect$"))
    page.locator("#camera").click()
    sync_api.expect(page.locator("#summary")).to_contain_text("2 people")
    sync_api.expect(detect).to_have_count(1)
    page.locator("#detect_every").fill("30")
    assert page.locator("#detect_every_value").inner_text() == "30"
    sync_api.expect(detect).to_have_count(0)
    sync_api.expect(page.locator("#summary")).to_contain_text("2 people")
    assert page.locator("#problem").is_hidden()


def test_a_stream_that_is_refused_gives_the_camera_back(page: "sync_api.Page"):
    sync_api.expect(page.locator("#model option")).to_have_count(1)  # they were listed
    page.evaluate(
        "document.getElementById('model').add(new Option('nosuch', 'nosuch', true, true))"
    )
    page.locator("#camera").click()
    sync_api.expect(page.locator("#problem")).to_contain_text("nosuch")
    sync_api.expect(page.locator("#camera")).to_have_text("Use the camera")


def test_a_stopping_service_is_told_from_one_that_broke_off(
    page: "sync_api.Page", repository: Path, tmp_path: Path
):
    with running_service(repository, tmp_path / "log", max_streams=1) as service:
        page.goto(service.url)
        page.locator("#camera").click()
        sync_api.expect(page.locator("#summary")).to_contain_text("2 people")
        service.process.terminate()
        sync_api.expect(page.locator("#problem")).to_contain_text("The service ended the stream")
        sync_api.expect(page.locator("#camera")).to_have_text("Use the camera")


def test_a_stream_that_is_not_taken_is_told_as_such(
    page: "sync_api.Page", repository: Path, tmp_path: Path, photo: bytes
):
    with running_service(repository, tmp_path / "log", max_streams=1) as service:
        page.goto(service.url)
        with Client(service.url) as client:
            other = client.stream(itertools.repeat(photo))
            next(other)
            page.locator("#camera").click()
            sync_api.expect(page.locator("#problem")).to_contain_text("as many as it may already")
            other.close()


def test_a_camera_that_goes_away_ends_the_stream(page: "sync_api.Page"):
    sent: list[str | bytes] = []
    page.on("websocket", lambda socket: socket.on("framesent", lambda frame: sent.append(frame)))
    page.locator("#camera").click()
    sync_api.expect(page.locator("#summary")).to_contain_text("2 people")
    page.context.clear_permissions()
    sync_api.expect(page.locator("#problem")).to_contain_text("permission was withdrawn")
    sync_api.expect(page.locator("#camera")).to_have_text("Use the camera")
    page.wait_for_timeout(500)
    assert sent[-1] == '{"end":true}'


def test_a_problem_of_one_frame_does_not_stay(page: "sync_api.Page"):
    page.locator("#camera").click()
    sync_api.expect(page.locator("#summary")).to_contain_text("2 people")
    page.evaluate("document.getElementById('problem').hidden = false")
    sync_api.expect(page.locator("#problem")).to_be_hidden()


def test_a_stream_that_nobody_watches_any_longer_is_closed_at_once(page: "sync_api.Page"):
    """Left to end by itself it would hold its place, and slow networks, for many seconds."""
    opened: list[sync_api.WebSocketRoute] = []
    closed: list[sync_api.WebSocketRoute] = []

    def answer_nothing(socket: "sync_api.WebSocketRoute") -> None:
        opened.append(socket)
        socket.on_message(lambda message: None)
        socket.on_close(lambda code, reason: closed.append(socket))

    page.route_web_socket("**/v1/stream", answer_nothing)
    page.locator("#camera").click()
    wait_until(page, lambda: len(opened) == 1)
    page.locator("#min_score").fill("0.7")
    wait_until(page, lambda: len(opened) == 2)
    assert closed == opened[:1]
    page.locator("#camera").click()
    wait_until(page, lambda: closed == opened)


def test_a_photo_ends_the_camera(page: "sync_api.Page", photo: bytes):
    page.locator("#camera").click()
    sync_api.expect(page.locator("#summary")).to_contain_text("2 people")
    page.set_input_files("#file", {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": photo})
    sync_api.expect(page.locator("#summary")).to_contain_text("2 people in 160")
    sync_api.expect(page.locator("#camera")).to_have_text("Use the camera")


def test_a_stream_leaves_the_keyboard_and_screen_readers_in_peace(page: "sync_api.Page"):
    page.locator("#camera").click()
    sync_api.expect(page.locator("#summary")).to_contain_text("2 people")
    person = page.locator("#people li").last
    person.focus()
    assert writes(page, "#summary")[0] == 0
    sync_api.expect(person).to_be_focused()


def test_people_who_come_and_go_at_each_frame_are_told_of_once_a_second(page: "sync_api.Page"):
    person = {"id": 1, "score": 0.9, "box": [1, 1, 9, 9], "keypoints": {}, "smoothed": {}}
    facts = {"model": "made", "image": {"width": 640, "height": 480}, "stages_ms": {}}
    frames = itertools.count()

    def answer(socket: "sync_api.WebSocketRoute", message: str | bytes) -> None:
        if isinstance(message, bytes):
            frame = next(frames)
            people = [person] * (1 + frame % 2)
            result = {"event": "result", "frame": frame, "age_ms": 1, "total_ms": 1}
            socket.send(json.dumps(result | facts | {"people": people}))

    page.route_web_socket(
        "**/v1/stream", lambda socket: socket.on_message(lambda message: answer(socket, message))
    )
    page.locator("#camera").click()
    sync_api.expect(page.locator("#summary")).to_contain_text("in 640")
    told, seconds = writes(page, "#summary")
    assert told <= seconds + 1


def wait_until(page: "sync_api.Page", happened: Callable[[], bool]) -> None:
    for _ in range(200):
        if happened():
            return
        page.wait_for_timeout(50)
    raise TimeoutError


def writes(page: "sync_api.Page", element: str) -> tuple[int, float]:
    """How often an element is written during 20 of the camera's frames, and their seconds."""
    return page.evaluate(
        """(element) => new Promise((resolve) => {
            const begun = performance.now();
            const count = { [element]: 0, "#live": 0 };
            for (const name of Object.keys(count)) {
                new MutationObserver(() => {
                    count[name] += 1;
                    if (count["#live"] < 20) return;
                    resolve([count[element], (performance.now() - begun) / 1000]);
                }).observe(document.querySelector(name), { childList: true });
            }
        })""",
        element,
    )
