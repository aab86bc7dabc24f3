"""The person detector: data, assignment, loss, export."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from posegate.types import U8
from posenets.evaluation.calibrate import _judge, calibrate_detector, fit_logistic
from posenets.export.onnx import export_onnx
from posenets.networks.person_detector import DetectorExport, PersonDetector, points_of
from posenets.training.box_teacher import add_teacher_boxes
from posenets.training.detection_data import DetectionData, Photo, read_photos
from posenets.training.detection_loss import assign, detection_loss, giou, pairwise_iou
from posenets.training.detection_task import DetectionTask
from posenets.training.loop import Trainer
from posenets.training.recipe import DetectionRecipe, Phase
from posenets.training.records import BadData, StoredPhoto


def _boxes(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32)


def test_detector_has_a_million_parameters_or_less() -> None:
    assert sum(p.numel() for p in PersonDetector().parameters()) <= 1_000_000


def test_points_sit_in_the_middle_of_their_pixels() -> None:
    centres, strides = points_of((64, 32))
    assert len(centres) == 8 * 4 + 4 * 2 + 2 * 1
    assert centres[0].tolist() == [3.5, 3.5]
    assert centres[-1].tolist() == [47.5, 15.5]
    assert strides[-1] == 32


@pytest.mark.parametrize(
    ("other", "iou", "generalised"),
    [
        ([0, 0, 10, 10], 1.0, 1.0),  # the same box
        ([5, 0, 15, 10], 1 / 3, 1 / 3),  # half beside it: the hull is the union
        ([20, 0, 30, 10], 0.0, -1 / 3),  # apart: a third of the hull is empty
    ],
)
def test_iou_of_known_boxes(other: list[float], iou: float, generalised: float) -> None:
    ours, theirs = _boxes([0, 0, 10, 10]), _boxes(other)
    assert pairwise_iou(ours[None], theirs[None]).item() == pytest.approx(iou)
    assert giou(ours, theirs).item() == pytest.approx(generalised)


def test_only_points_inside_a_person_answer_for_it() -> None:
    centres, _ = points_of((64, 64))
    people = _boxes([8, 8, 40, 40], [0, 0, 0, 0])[None]
    valid = torch.tensor([[True, False]])
    boxes = people[:, :1].expand(1, len(centres), 4)
    target, owner = assign(torch.zeros(1, len(centres)), boxes, centres, people, valid)
    chosen = centres[target[0] > 0]
    assert len(chosen) == 10
    assert ((chosen > 8) & (chosen < 40)).all()
    assert (owner[0][target[0] > 0] == 0).all()
    assert target.max().item() == pytest.approx(1.0)


def test_background_in_an_ignored_region_teaches_nothing() -> None:
    centres, _ = points_of((64, 64))
    logits = torch.full((1, len(centres)), 2.0, requires_grad=True)
    boxes = torch.zeros(1, len(centres), 4)
    nobody, invalid = torch.zeros(1, 1, 4), torch.zeros(1, 1, dtype=torch.bool)
    region = _boxes([0, 0, 32, 64])[None]
    detection_loss(logits, boxes, centres, nobody, invalid, region).backward()
    assert logits.grad is not None
    inside = centres[:, 0] < 32
    assert (logits.grad[0, inside] == 0).all()
    assert (logits.grad[0, ~inside] > 0).all()


def _stored(pixels_bgr: U8) -> StoredPhoto:
    return StoredPhoto(Path("made.png"), held=bytes(cv2.imencode(".png", pixels_bgr)[1]))


def test_mosaic_moves_boxes_with_their_pictures() -> None:
    white = np.zeros((120, 160, 3), np.uint8)
    white[30:90, 40:100] = 255
    people, ignored = np.array([[40, 30, 100, 90]], np.float32), np.zeros((0, 4), np.float32)
    photo = Photo(_stored(white), people, ignored, 1.0)
    for mosaic in (0.0, 1.0):
        batch = DetectionData([photo], mosaic=mosaic, seed=5).batch(8, 128)
        for image, people, valid in zip(batch.images, batch.people, batch.valid, strict=True):
            bright = (image.mean(0) > 130).numpy()
            covered = np.zeros_like(bright)
            for x0, y0, x1, y1 in people[valid].numpy().round().astype(int):
                covered[y0:y1, x0:x1] = True
            inner = np.zeros_like(covered)
            inner[3:-3, 3:-3] = covered[3:-3, 3:-3]
            assert valid.sum() >= 1
            if inner.any():
                assert bright[inner].mean() > 0.8


@pytest.mark.parametrize("times", [1, 4], ids=["enlarged", "area-averaged"])
def test_boxes_lie_on_the_edges_of_what_they_hold(times: int) -> None:
    pixels = np.full((120 * times, 160 * times, 3), 60, np.uint8)
    pixels[30 * times : 90 * times, 30 * times : 80 * times] = 120  # no colour jitter clips it
    box = np.array([[30, 30, 80, 90]], np.float32) * times
    photo = Photo(_stored(pixels), box, np.zeros((0, 4), np.float32), 1.0)
    batch = DetectionData([photo], mosaic=0.0, seed=5).batch(64, 256)
    off = []
    for image, people in zip(batch.images, batch.people, strict=True):
        low, high = people[0, :2], people[0, 2:]
        if min(low) < 10 or max(high) > 246:
            continue  # the picture ends within the box or close to it
        (left, top), (right, bottom) = (low - 8).int().tolist(), (high + 9).int().tolist()
        shown = image[0, top:bottom, left:right].double()
        filled = (shown - shown[0, 0]) / (shown.max() - shown[0, 0])
        for axis, start in ((0, left), (1, top)):
            profile = filled.mean(axis) / filled.mean(axis).max()
            middle = (profile * torch.arange(len(profile))).sum() / profile.sum() + start + 0.5
            off.append([middle - (low + high)[axis] / 2, profile.sum() - (high - low)[axis]])
    assert len(off) > 40
    np.testing.assert_allclose(np.mean(off, axis=0), 0, atol=0.05)
    np.testing.assert_allclose(off, 0, atol=0.5)


def test_no_person_of_a_crowded_photo_becomes_background() -> None:
    corners = np.array([[70 * x, 70 * y] for x in range(10) for y in range(10)], np.float32)
    boxes = np.concatenate([corners, corners + 60], 1)
    photo = Photo(StoredPhoto(Path("crowd.png")), boxes[:60], boxes[60:], 1.0)
    data = DetectionData([photo], mosaic=0.0)
    data._single = lambda size: (np.zeros((size, size, 3), np.uint8), boxes[:60], boxes[60:])
    batch = data.batch(1, 64)
    np.testing.assert_array_equal(batch.people[0, batch.valid[0]], boxes[:60])
    np.testing.assert_array_equal(batch.ignored[0], boxes[60:])


def test_photos_of_nobody_teach_background() -> None:
    nobody = np.zeros((0, 4), np.float32)
    black = _stored(np.zeros((64, 64, 3), np.uint8))
    batch = DetectionData([Photo(black, nobody, nobody, 1.0)]).batch(2, 64)
    assert not batch.valid.any()
    centres, _ = points_of((64, 64))
    logits, boxes = torch.zeros(2, len(centres)), torch.zeros(2, len(centres), 4)
    loss = detection_loss(logits, boxes, centres, batch.people, batch.valid, batch.ignored)
    assert loss > 0


def test_unsure_boxes_become_ignored_regions(coco_folder: Path) -> None:
    labels = json.loads(coco_folder.read_text())
    labels["annotations"][0]["score"] = 0.2
    coco_folder.write_text(json.dumps(labels))
    photos = read_photos(coco_folder, source_weights={"left": 0.5})
    assert len(photos["0.png"].people) == 0
    assert len(photos["0.png"].ignored) == 1
    assert photos["1.png"].weight == 0.5


def test_photos_of_one_name_are_refused(coco_folder: Path) -> None:
    """Boxes are kept by name; one of two would be lost."""
    labels = json.loads(coco_folder.read_text())
    labels["images"][1]["file_name"] = "0.png"
    coco_folder.write_text(json.dumps(labels))
    with pytest.raises(BadData, match=r"two photos are named '0\.png'"):
        read_photos(coco_folder, source_weights={})


def test_crowds_become_ignored_regions(coco_folder: Path) -> None:
    labels = json.loads(coco_folder.read_text())
    x, y, w, h = labels["annotations"][0]["bbox"]
    labels["annotations"][0]["iscrowd"] = 1
    coco_folder.write_text(json.dumps(labels))
    photo = read_photos(coco_folder, source_weights={})["0.png"]
    assert len(photo.people) == 0
    assert photo.ignored.tolist() == [[x, y, x + w, y + h]]


def test_boxes_within_a_crowd_say_nothing_of_the_scores() -> None:
    people = np.array([[0, 0, 10, 10]], np.float32)
    crowd = np.array([[40, 0, 140, 100]], np.float32)
    photo = Photo(StoredPhoto(Path("made.png")), people, crowd, 1.0)
    boxes = torch.tensor(
        [[0, 0, 10, 9], [50, 10, 60, 20], [36, 0, 46, 10], [30, 0, 42, 10], [20, 0, 30, 10]]
    )
    right, counts = _judge(boxes.float(), photo)
    assert right.tolist() == [True, False, False, False, False]
    assert counts.tolist() == [True, False, False, True, True]


def test_processes_draw_other_photos_whatever_the_seed(coco_folder: Path) -> None:
    photos = list(read_photos(coco_folder, source_weights={}).values())
    phases = (Phase(width=64, height=64, share=1.0, batch=2),)
    drawn = []
    for rank in (0, 1):
        recipe = DetectionRecipe(
            task="detect", network="person-detector", examples=1, phases=phases, seed=1
        )
        task = DetectionTask(DetectionData(photos, seed=1), recipe, torch.device("cpu"))
        if rank:
            task.reseed(rank)
        drawn.append(task.draw(0)[0].images)
    assert not torch.equal(*drawn)


@pytest.mark.parametrize(("complete", "people"), [(True, 1), (False, 2)])
def test_teacher_adds_people_only_where_labels_are_incomplete(
    coco_folder: Path, tmp_path: Path, complete: bool, people: int
) -> None:
    boxes = tmp_path / "boxes.json"
    same, new, unsure = [41, 31, 118, 149, 0.9], [0, 180, 40, 60, 0.8], [170, 0, 30, 60, 0.25]
    boxes.write_text(json.dumps({"2.png": [same, new, unsure]}))
    photos = read_photos(coco_folder, source_weights={})
    photo = add_teacher_boxes(photos, boxes, complete=complete)["2.png"]
    assert len(photo.people) == people
    assert len(photo.people) + len(photo.ignored) == 3


def test_training_lowers_the_loss(coco_folder: Path, tmp_path: Path) -> None:
    recipe = DetectionRecipe(
        task="detect",
        network="person-detector",
        examples=48,
        learning_rate=5e-3,
        phases=(Phase(width=64, height=64, share=1.0, batch=4),),
        warmup=4,
        clip=10.0,
    )
    torch.manual_seed(0)
    photos = list(read_photos(coco_folder, source_weights={}).values())
    cpu = torch.device("cpu")
    task = DetectionTask(DetectionData(photos), recipe, cpu)
    trainer = Trainer(
        PersonDetector(), recipe, task, device=cpu, checkpoint=tmp_path / "detector.pt"
    )
    batch, _ = task.draw(0)
    before = float(task.loss(trainer.network, batch).detach())
    trainer.run()
    assert float(task.loss(trainer.network, batch).detach()) < 0.98 * before


def test_export_gives_boxes_and_scores_equal_to_the_network(tmp_path: Path) -> None:
    network = DetectorExport(PersonDetector())
    path = tmp_path / "1" / "model.onnx"
    difference = export_onnx(network, path, size_wh=(96, 64), output_names=("boxes", "scores"))
    assert difference < 1e-4


def test_calibration_finds_the_chance_that_made_the_data() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, 20_000).astype(np.float32)
    right = random.random(20_000) < 1 / (1 + np.exp(-(0.7 * logits - 1.0)))
    fitted = fit_logistic(logits, right)
    assert fitted.slope == pytest.approx(0.7, abs=0.05)
    assert fitted.shift == pytest.approx(-1.0, abs=0.05)


def test_separable_scores_give_finite_numbers() -> None:
    fitted = fit_logistic(np.array([-2, -1, 1, 2], np.float32), np.array([0, 0, 1, 1], bool))
    assert np.isfinite([fitted.slope, fitted.shift]).all()
    assert fitted.slope > 0


@pytest.mark.parametrize(
    ("mean", "spread", "share"),
    [(9, 2, 0.3), (6, 2, 0.2), (20, 2, 0.3), (4, 1, 0.1)],  # far surer than right
)
def test_calibration_of_sure_scores_finds_the_greatest_likelihood(
    mean: float, spread: float, share: float
) -> None:
    random = np.random.default_rng(0)
    logits = random.normal(mean, spread, 200)
    right = random.random(200) < share
    fitted = fit_logistic(logits.astype(np.float32), right)
    chance = 1 / (1 + np.exp(-(fitted.slope * logits + fitted.shift)))
    yes, no = right.sum(), (~right).sum()
    target = np.where(right, (yes + 1) / (yes + 2), 1 / (no + 2))
    assert (chance - target).sum() == pytest.approx(0, abs=1e-3)
    assert ((chance - target) * logits).sum() == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(("logits", "right"), [([2.0], [True]), ([15.0, 14.0, 17.0], [False] * 3)])
def test_scores_of_boxes_all_right_or_all_wrong_say_nothing(
    logits: list[float], right: list[bool]
) -> None:
    fitted = fit_logistic(np.array(logits, np.float32), np.array(right))
    assert fitted.slope == 0
    assert np.sign(fitted.shift) == (1 if right[0] else -1)


def test_calibrating_a_detector_rests_on_its_boxes(coco_folder: Path) -> None:
    recipe = DetectionRecipe(
        task="detect",
        network="person-detector",
        examples=1,
        phases=(Phase(width=96, height=96, share=1.0),),
    )
    network = PersonDetector()
    torch.nn.init.zeros_(network.score.bias)
    photos = list(read_photos(coco_folder, source_weights={}).values())[:2]
    calibration, boxes = calibrate_detector(network, photos, recipe)
    assert boxes > 0
    assert np.isfinite([calibration.slope, calibration.shift]).all()
