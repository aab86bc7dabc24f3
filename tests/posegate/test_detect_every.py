"""The detector on one of N frames, people followed in between: posegate.streams over tracking."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import numpy as np
import pytest

from posegate.errors import BadOption
from posegate.events import Event, Result
from posegate.metrics import Metrics
from posegate.options import EstimateOptions
from posegate.people import person_scores
from posegate.pipeline import Estimate, ImageSize
from posegate.settings import Settings
from posegate.skeleton import COCO_KEYPOINTS
from posegate.stages import StageClock
from posegate.streams import StreamOptions, Streams
from posegate.tracking import Tracker
from posegate.types import F32, Boxes, Image, Keypoints, Poses

SIZE = 100.0
POSTURE = np.random.default_rng(0).uniform(-0.4, 0.4, (17, 2)).astype(np.float32)
FPS = 30


@dataclass
class Scene:
    """A pipeline that knows where everybody is in frame n, which is what its bytes say.

    Given boxes, it sees whoever stands in them, half a pixel off, and nothing in empty ones, as a
    pose network would. `centres` (frames, P, 2) are NaN for who is not there; `sizes` (frames,).
    From frame `halved_from` on pictures are half as large.
    """

    centres: F32
    sizes: F32
    detection_s: float = 0.0
    look_s: float = 0.0
    halved_from: int = 1_000_000
    detections: list[int] = field(default_factory=list)
    looks: list[int] = field(default_factory=list)

    def check(self, options: EstimateOptions) -> None:
        pass

    async def estimate(
        self, data: bytes, options: EstimateOptions, *, deadline: float, clock: StageClock
    ) -> Estimate:
        number = int(data)
        noise = np.random.default_rng(number)
        size = np.float32(self.sizes[number])
        there = self.centres[number][~np.isnan(self.centres[number][:, 0])]
        half = 1 + (number >= self.halved_from)
        image = Image(np.zeros((600 // half, 2000 // half, 3), np.uint8))
        if options.boxes_xywh is None:
            self.detections.append(number)
            await asyncio.sleep(self.detection_s)
            jitter = noise.normal(0, 1, (len(there), 4)).astype(np.float32)
            xyxy = np.concatenate([there - size / 2, there + size / 2], axis=1) + jitter
            boxes = Boxes(xyxy.astype(np.float32), np.full(len(there), 0.7, np.float32))
        else:
            boxes = options.given_boxes(image)
            await asyncio.sleep(self.look_s)
        self.looks.append(len(boxes))
        middles = (boxes.xyxy[:, :2] + boxes.xyxy[:, 2:]) / 2
        reach = 1.25 / 2 * (boxes.xyxy[:, 2:] - boxes.xyxy[:, :2])
        xy = middles[:, None] + np.zeros((1, 17, 2), np.float32)
        scores = np.full((len(boxes), 17), 0.05, np.float32)
        for row, (middle, room) in enumerate(zip(middles, reach, strict=True)):
            near = there[(np.abs(there - middle) + size * 0.4 < room * 1.1).all(axis=1)]
            if len(near):
                xy[row] = near[0] + POSTURE * size + noise.normal(0, 0.5, (17, 2))
                scores[row] = 0.9
        if options.boxes_xywh is not None:
            boxes = Boxes(boxes.xyxy, person_scores(boxes.scores, scores))
        poses = Poses(boxes, Keypoints(xy.astype(np.float32), scores), COCO_KEYPOINTS)
        detector = "scene" if options.boxes_xywh is None else None
        clock.mark("infer")
        size = ImageSize(image.width, image.height)
        return Estimate("scene", detector, size, poses, clock)


def walk(frames: int, start: tuple[float, float], step: tuple[float, float]) -> F32:
    """(frames, 1, 2) somebody who walks."""
    return (np.array(start) + np.arange(frames)[:, None] * np.array(step)).astype(np.float32)[
        :, None
    ]


async def run(
    scene: Scene, *, detect_every: int, max_in_flight: int = 2, broken: int | None = None
) -> list[Result]:
    """The results of the scene as a stream of which every frame but a broken one is estimated."""
    events: list[Event] = []

    async def incoming() -> AsyncIterator[StreamOptions | bytes]:
        yield StreamOptions(mode="every", track=True, detect_every=detect_every)
        for number in range(len(scene.centres)):
            yield b"broken" if number == broken else str(number).encode()

    async def send(event: Event) -> None:
        events.append(event)

    settings = Settings(max_in_flight=max_in_flight, max_stream_fps=10_000)
    await Streams(scene, settings, Metrics()).run(incoming(), send)
    results = [event for event in events[:-1] if event.frame != broken]
    assert all(isinstance(event, Result) for event in results), events
    return results


def truth(scene: Scene, number: int, person: int) -> F32:
    return scene.centres[number, person] + POSTURE * scene.sizes[number]


@pytest.mark.parametrize("max_in_flight", [1, 2, 4])
@pytest.mark.parametrize(
    ("step", "growth"),
    [
        ((0.0, 0.0), 1.0),  # stands still
        ((6.0, 1.0), 1.0),  # walks
        ((3.0, 0.0), 1.02),  # comes nearer
        ((-3.0, 0.0), 0.98),  # goes away
    ],
)
async def test_a_person_is_followed_between_detections(
    step: tuple[float, float], growth: float, max_in_flight: int
) -> None:
    frames = 40
    sizes = (SIZE * growth ** np.arange(frames)).astype(np.float32)
    scene = Scene(walk(frames, (600, 300), step), sizes)
    results = await run(scene, detect_every=5, max_in_flight=max_in_flight)
    assert len(scene.detections) == frames / 5
    for result in results:
        assert result.tracks.ids.tolist() == [0]
        poses = result.estimate.poses
        error = np.abs(poses.keypoints.xy[0] - truth(scene, result.frame, 0)).max()
        assert error < 3  # px, the noise of the made network
        middle = poses.boxes.xyxy[0].reshape(2, 2).mean(axis=0)
        assert np.abs(middle - scene.centres[result.frame, 0]).max() < 8
        width = poses.boxes.xywh[0, 2]
        assert width == pytest.approx(sizes[result.frame], rel=0.12)
        assert poses.boxes.scores.tolist() == [pytest.approx(0.7)]  # the detector's last word


async def test_ids_stay_when_people_cross() -> None:
    frames = 45
    scene = Scene(
        np.concatenate(
            [walk(frames, (400, 200), (8, 0)), walk(frames, (760, 420), (-8, 0))], axis=1
        ),
        np.full(frames, SIZE, np.float32),
    )
    for result in await run(scene, detect_every=4):
        assert sorted(result.tracks.ids.tolist()) == [0, 1]
        for number, xy in zip(result.tracks.ids, result.estimate.poses.keypoints.xy, strict=True):
            assert np.abs(xy - truth(scene, result.frame, number)).max() < 3


async def test_who_appears_in_between_is_found_at_the_next_detection() -> None:
    frames, comes = 20, 7
    newcomer = walk(frames, (1200, 300), (0, 0))
    newcomer[:comes] = np.nan
    scene = Scene(
        np.concatenate([walk(frames, (300, 300), (2, 0)), newcomer], axis=1),
        np.full(frames, SIZE, np.float32),
    )
    results = await run(scene, detect_every=6)
    found = 12
    assert scene.detections == [0, 6, found, 18]
    for result in results:
        assert result.tracks.ids.tolist() == ([0] if result.frame < found else [0, 1])


async def test_who_walks_out_of_the_picture_is_let_go() -> None:
    scene = Scene(walk(30, (1900, 300), (12, 0)), np.full(30, SIZE, np.float32))
    scene.centres[(scene.centres[..., 0] > 2050).any(axis=1)] = np.nan
    results = await run(scene, detect_every=8)
    assert len(results[-1].estimate.poses) == 0
    assert scene.looks[-1] == 0


async def test_who_vanishes_within_the_picture_is_let_go_at_once() -> None:
    frames, vanishes = 30, 5
    short, long = walk(frames, (600, 300), (2, 0)), walk(frames, (1200, 300), (2, 0))
    short[vanishes:] = np.nan
    scene = Scene(np.concatenate([short, long], axis=1), np.full(frames, SIZE, np.float32))
    results = await run(scene, detect_every=1000)
    assert scene.detections == [0]
    for result in results:
        assert result.tracks.ids.tolist() == ([0, 1] if result.frame < vanishes else [1])
        assert len(result.estimate.poses) == len(result.tracks.ids) == len(result.tracks.smoothed)
        scores = result.estimate.poses.boxes.scores
        assert scores.tolist() == [pytest.approx(0.7)] * len(scores)


async def test_two_boxes_carried_onto_one_person_give_one() -> None:
    frames, vanishes = 12, 5
    stays, goes = walk(frames, (600, 300), (0, 0)), walk(frames, (630, 300), (0, 0))
    goes[vanishes:] = np.nan
    scene = Scene(np.concatenate([stays, goes], axis=1), np.full(frames, SIZE, np.float32))
    results = await run(scene, detect_every=1000)
    assert all(result.tracks.ids.tolist() == [0] for result in results[vanishes:])


async def test_an_empty_scene_runs_no_network_between_detections() -> None:
    scene = Scene(np.full((12, 1, 2), np.nan, np.float32), np.full(12, SIZE, np.float32))
    results = await run(scene, detect_every=4)
    assert scene.looks == [0] * 12
    assert scene.detections == [0, 4, 8]
    assert all(len(result.estimate.poses) == 0 for result in results)


async def test_the_detector_looks_at_one_of_n_frames() -> None:
    scene = Scene(walk(23, (600, 300), (1, 0)), np.full(23, SIZE, np.float32))
    results = await run(scene, detect_every=4)
    assert scene.detections == list(range(0, 23, 4))
    shown = [result.frame for result in results if result.estimate.detector is not None]
    assert shown == scene.detections


async def test_a_detection_that_failed_is_made_up_for_by_the_next_frame() -> None:
    scene = Scene(walk(9, (600, 300), (1, 0)), np.full(9, SIZE, np.float32))
    events: list[Event] = []

    async def incoming() -> AsyncIterator[StreamOptions | bytes | BadOption]:
        yield StreamOptions(mode="every", track=True, detect_every=4)
        yield b"broken"
        yield BadOption("this was no frame and takes no turn")
        for number in range(9):
            yield str(number).encode()

    async def send(event: Event) -> None:
        events.append(event)

    await Streams(scene, Settings(max_stream_fps=10_000), Metrics()).run(incoming(), send)
    assert [type(event).__name__ for event in events[:3]] == ["Failed", "Failed", "Result"]
    assert scene.detections[0] == 0
    assert np.diff(scene.detections)[-1] == 4
    assert all(len(event.estimate.poses) == 1 for event in events[2:-1])


@pytest.mark.parametrize("mode", ["live", "every"])
@pytest.mark.parametrize("max_in_flight", [1, 4])
async def test_a_broken_frame_at_the_turn_of_the_detector_blinds_only_itself(
    mode: str, max_in_flight: int
) -> None:
    scene = Scene(walk(30, (600, 300), (1, 0)), np.full(30, SIZE, np.float32))
    events: list[Event] = []

    async def incoming() -> AsyncIterator[StreamOptions | bytes]:
        yield StreamOptions(mode=mode, track=True, detect_every=10)
        for number in range(30):
            yield b"broken" if number == 10 else str(number).encode()
            await asyncio.sleep(0.002)

    async def send(event: Event) -> None:
        events.append(event)

    settings = Settings(max_in_flight=max_in_flight, max_stream_fps=10_000)
    await Streams(scene, settings, Metrics()).run(incoming(), send)
    kinds = [type(event).__name__ for event in events[:-1]]
    assert kinds == ["Result"] * 10 + ["Failed"] + ["Result"] * 19
    assert all(len(event.estimate.poses) == 1 for event in events[:-1] if event.frame != 10)
    assert scene.detections == [0, 11, 21]


@pytest.mark.parametrize(("black", "detections"), [(5, [0, 6, 16, 26]), (10, [0, 10, 11, 21])])
@pytest.mark.parametrize("max_in_flight", [1, 4])
async def test_a_black_frame_loses_people_for_itself_alone(
    black: int, detections: list[int], max_in_flight: int
) -> None:
    scene = Scene(walk(30, (600, 300), (1, 0)), np.full(30, SIZE, np.float32))
    scene.centres[black] = np.nan
    results = await run(scene, detect_every=10, max_in_flight=max_in_flight)
    assert scene.detections == detections
    for result in results:
        assert result.tracks.ids.tolist() == ([] if result.frame == black else [0])


@pytest.mark.parametrize(
    ("detect_every", "at", "lost"), [(10, 4, {4}), (10, 10, set()), (1, 4, set())]
)
async def test_people_keep_their_ids_where_frames_change_their_size(
    detect_every: int, at: int, lost: set[int]
) -> None:
    """As an adaptive camera's do; only what was sought at its old place may be missed."""
    frames = 20
    centres = np.concatenate(
        [walk(frames, (600, 300), (2, 0)), walk(frames, (900, 400), (0, 0))], axis=1
    )
    sizes = np.full(frames, SIZE, np.float32)
    centres[at:] /= 2
    sizes[at:] /= 2
    scene = Scene(centres, sizes, halved_from=at)
    for result in await run(scene, detect_every=detect_every):
        if result.frame not in lost:
            assert result.tracks.ids.tolist() == [0, 1]
            error = np.abs(result.tracks.smoothed.xy[0] - truth(scene, result.frame, 0))
            assert error.max() < 6


async def test_the_wait_for_a_detection_is_queueing() -> None:
    scene = Scene(walk(2, (600, 300), (1, 0)), np.full(2, SIZE, np.float32), detection_s=0.3)
    _, followed = await run(scene, detect_every=2)
    stages = followed.estimate.clock.stages_ms
    assert scene.detections == [0]
    assert stages["queue"] > 200 > stages["infer"]


async def test_the_answers_do_not_depend_on_how_many_frames_are_worked_on() -> None:
    """Nor on the pace of the sender, which decides how many are."""
    answers = []
    for max_in_flight in (1, 4):
        scene = Scene(walk(12, (600, 300), (9, 0)), np.full(12, SIZE, np.float32), look_s=0.01)
        results = await run(scene, detect_every=6, max_in_flight=max_in_flight)
        answers.append([result.estimate.poses.boxes.xyxy for result in results])
        assert scene.detections == [0, 6]
    np.testing.assert_array_equal(*answers)


@pytest.mark.parametrize("detect_every", [2, 3, 4])
@pytest.mark.parametrize("broken", [None, 0, 6])
@pytest.mark.parametrize("halved_from", [5, 6, 1_000_000])
async def test_the_turns_of_the_detector_do_not_depend_on_how_many_frames_are_worked_on(
    halved_from: int, broken: int | None, detect_every: int
) -> None:
    """Broken frames, and such of another size, put them off."""
    frames, turns = 14, []
    for max_in_flight in (1, 2, 4):
        scene = Scene(walk(frames, (600, 300), (1, 0)), np.full(frames, SIZE, np.float32))
        scene.halved_from, scene.look_s = halved_from, 0.002
        results = await run(
            scene, detect_every=detect_every, max_in_flight=max_in_flight, broken=broken
        )
        turns.append([event.frame for event in results if event.estimate.detector is not None])
    assert turns[0] == turns[1] == turns[2]


async def test_off_means_every_frame() -> None:
    scene = Scene(walk(8, (600, 300), (1, 0)), np.full(8, SIZE, np.float32))
    await run(scene, detect_every=1)
    assert scene.detections == list(range(8))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"track": True, "detect_every": 0}, "1 to 1000"),
        ({"track": True, "detect_every": 1001}, "1 to 1000"),
        ({"detect_every": 2}, "needs track"),
        (
            {
                "track": True,
                "detect_every": 2,
                "estimate": EstimateOptions(boxes_xywh=np.ones((1, 4), np.float32)),
            },
            "exclude each other",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(BadOption, match=words):
        StreamOptions(**options)


def person(middle: tuple[float, float], *, score: float = 0.9) -> Poses:
    at = np.array([middle], np.float32)
    half = np.float32(SIZE / 2)
    return Poses(
        Boxes(np.concatenate([at - half, at + half], axis=1), np.full(1, score, np.float32)),
        Keypoints(at[:, None] + POSTURE * SIZE, np.full((1, 17), score, np.float32)),
        COCO_KEYPOINTS,
    )


def both(first: Poses, second: Poses) -> Poses:
    def joined(a: F32, b: F32) -> F32:
        return np.concatenate([a, b])

    return Poses(
        Boxes(
            joined(first.boxes.xyxy, second.boxes.xyxy),
            joined(first.boxes.scores, second.boxes.scores),
        ),
        Keypoints(
            joined(first.keypoints.xy, second.keypoints.xy),
            joined(first.keypoints.scores, second.keypoints.scores),
        ),
        COCO_KEYPOINTS,
    )


def test_nothing_is_carried_before_the_first_frame_nor_after_a_long_silence() -> None:
    tracker = Tracker(COCO_KEYPOINTS)
    assert tracker.carry(0.0) is None
    tracker.update(person((300, 300)), 0.0)
    assert tracker.carry(0.5).tolist() == [[250, 250, 100, 100]]
    assert tracker.carry(1.5) is None


def test_a_burst_of_frames_does_not_throw_a_box_away() -> None:
    """A sender that was held up sends frames milliseconds apart: speeds look enormous."""
    tracker = Tracker(COCO_KEYPOINTS)
    tracker.update(person((300, 300)), 0.0)
    tracker.update(person((308, 300)), 0.001)
    x, y, width, height = tracker.carry(0.3)[0]
    assert abs(x - 258) <= 25.001
    assert (y, width, height) == (250, 100, 100)


def test_joints_that_were_not_seen_move_no_box() -> None:
    tracker = Tracker(COCO_KEYPOINTS)
    tracker.update(person((300, 300)), 0.0)
    lost = person((300, 300), score=0.0)
    lost.keypoints.xy[:] = 5000
    boxes = tracker.update(lost, 1 / FPS, carried=True).poses.boxes
    assert boxes.xyxy.tolist() == [[250, 250, 350, 350]]
    assert np.isfinite(boxes.scores).all()


def test_nobody_is_born_in_a_carried_box() -> None:
    tracker = Tracker(COCO_KEYPOINTS)
    tracker.update(person((300, 300)), 0.0)
    tracks = tracker.update(person((900, 300)), 1 / FPS, carried=True)
    assert (len(tracks.ids), len(tracks.smoothed), len(tracks.poses)) == (0, 0, 0)
    assert tracker.update(person((900, 300)), 2 / FPS).ids.tolist() == [1]


def test_carried_people_come_in_the_order_of_the_scores_they_keep() -> None:
    tracker = Tracker(COCO_KEYPOINTS)
    sure, less = person((300, 300), score=0.9), person((900, 300), score=0.6)
    tracker.update(both(sure, less), 0.0)
    tracks = tracker.update(both(less, sure), 1 / FPS, carried=True)
    assert tracks.ids.tolist() == [0, 1]
    assert tracks.poses.boxes.scores.tolist() == [pytest.approx(0.9), pytest.approx(0.6)]
    assert tracks.poses.keypoints.xy.tolist() == [
        *sure.keypoints.xy.tolist(),
        *less.keypoints.xy.tolist(),
    ]
