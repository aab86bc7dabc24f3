import gzip
import io
import json
import lzma
import math
import tarfile
from collections.abc import Callable
from functools import reduce
from pathlib import Path

import numpy as np
import pytest

import image_files as files
from posegate.skeleton import COCO_KEYPOINTS
from posenets.evaluation.scenes import coco_scenes
from posenets.training.cache import build_cache
from posenets.training.detection_data import read_photos
from posenets.training.people import read_people
from posenets.training.records import BadData, read_labelled_images

SPELT = [name.replace("_", " ").title() for name in COCO_KEYPOINTS]


def test_folder_and_pack_give_the_same_people(coco_folder: Path, pack: Path) -> None:
    ours, theirs = list(read_labelled_images(coco_folder)), list(read_labelled_images(pack))
    assert [image.name for image in ours] == [image.name for image in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a.photo.read() == b.photo.read()
        assert np.array_equal(a.keypoints, b.keypoints)
        assert a.source == b.source


def test_human_joints_count_fully_and_teacher_joints_by_their_score(coco_folder: Path) -> None:
    image = next(iter(read_labelled_images(coco_folder)))
    placed_by_hand = image.keypoints[0, :, 2] == 2
    assert np.array_equal(image.keypoint_scores[0], np.where(placed_by_hand, 1.0, 0.5))


def test_a_teacher_s_peak_above_1_counts_as_1(coco_folder: Path) -> None:
    labels = json.loads(coco_folder.read_text())
    labels["annotations"][0]["keypoint_scores"][0] = 1.14
    coco_folder.write_text(json.dumps(labels))
    assert next(iter(read_labelled_images(coco_folder))).keypoint_scores[0, 0] == 1


def test_crowds_are_no_people(coco_folder: Path) -> None:
    labels = json.loads(coco_folder.read_text())
    labels["annotations"][0]["iscrowd"] = 1
    coco_folder.write_text(json.dumps(labels))
    image = next(iter(read_labelled_images(coco_folder)))
    assert len(image.boxes_xywh) == 0
    assert image.crowds_xywh.tolist() == [labels["annotations"][0]["bbox"]]


@pytest.mark.parametrize(
    ("categories", "category_id", "people"),
    [
        ([{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}], 1, 1),
        ([{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}], 18, 0),
        ([{"id": 1, "name": "dog"}, {"id": 7, "name": "person"}], 7, 1),
        ([{"id": 1, "name": "dog"}, {"id": 7, "name": "person"}], 1, 0),
        ([{"id": 7, "name": "person"}], ..., 1),  # an annotation that tells no category
        ([{"id": 7, "name": "Person"}], 7, 1),
        ([{"id": 1, "name": "person", "keypoints": []}], 1, 1),
        ([{"id": 1, "name": "person", "keypoints": SPELT}], 1, 1),
        ([], 1, 1),
        ([{"id": 1}], 1, 1),
        (..., 1, 1),
        (..., 18, 0),
    ],
)
def test_only_people_are_read(
    coco_folder: Path, categories: object, category_id: object, people: int
) -> None:
    labels = json.loads(coco_folder.read_text())
    labels["categories"] = categories
    labels["annotations"] = labels["annotations"][:1]
    labels["annotations"][0]["category_id"] = category_id
    for holder in (labels, labels["annotations"][0]):
        for field in [field for field, value in holder.items() if value is ...]:
            del holder[field]
    coco_folder.write_text(json.dumps(labels))
    assert len(next(iter(read_labelled_images(coco_folder))).boxes_xywh) == people


def test_joints_of_another_category_are_not_looked_at(coco_folder: Path) -> None:
    labels = json.loads(coco_folder.read_text())
    people = len(labels["annotations"])
    labels["categories"] = [{"id": 1, "name": "person"}, {"id": 2, "name": "horse"}]
    horse = {"id": 99, "image_id": 0, "category_id": 2, "bbox": [1, 2, 30, 40]}
    labels["annotations"].append(horse | {"keypoints": [1, 2, 2] * 5, "num_keypoints": 5})
    coco_folder.write_text(json.dumps(labels))
    read = [len(image.boxes_xywh) for image in read_labelled_images(coco_folder)]
    assert sum(read) == people


def test_all_who_have_people_s_keypoints_are_people(coco_folder: Path) -> None:
    labels = json.loads(coco_folder.read_text())
    people = len(labels["annotations"])
    kinds = [{"id": 5, "name": "player", "keypoints": SPELT}, {"id": 6, "name": "ball"}]
    labels["annotations"][0]["category_id"] = 5
    labels["annotations"][1]["category_id"] = 6
    coco_folder.write_text(
        json.dumps(labels | {"categories": [{"id": 1, "name": "person"}, *kinds]})
    )
    assert sum(len(image.boxes_xywh) for image in read_people(coco_folder)) == people - 1
    coco_folder.write_text(json.dumps(labels | {"categories": kinds}))
    assert sum(len(image.boxes_xywh) for image in read_people(coco_folder)) == 1


@pytest.mark.parametrize(
    ("category", "words"),
    [
        ({"id": 1, "name": "person", "keypoints": 17}, "keypoints is 17; it must be a list"),
        ({"id": 1, "name": "horse"}, "categories names horse, and none 'person'"),
        (
            {"id": 1, "name": "person", "keypoints": list(reversed(COCO_KEYPOINTS))},
            r"categories\[0\]: keypoints is .*; people's must be COCO's 17, nose to right_ankle",
        ),
    ],
)
def test_labels_of_others_than_people_are_refused(
    coco_folder: Path, category: dict[str, object], words: str
) -> None:
    labels = json.loads(coco_folder.read_text()) | {"categories": [category]}
    coco_folder.write_text(json.dumps(labels))
    with pytest.raises(BadData, match=words):
        list(read_labelled_images(coco_folder))


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        (("images",), None, "images is None"),  # a whole field
        (("images", 1), 3, r"images\[1\] is 3; it must be an object"),
        (("images", 1, "id"), None, r"images\[1\]: id is None; it must be an integer"),
        (("images", 1, "id"), 0, r"images\[1\]: id 0 stands twice"),
        (("images", 1, "file_name"), None, r"images\[1\]: file_name is None; it must be a text"),
        (("images", 1, "file_name"), ..., r"images\[1\]: file_name is missing"),
        (("images", 1, "shard"), 0, "image 0 .*: shard is missing"),  # on some images only
        (("annotations",), {}, "annotations is {}; it must be a list"),
        (("categories",), {}, "categories is {}; it must be a list"),
        (("categories", 0), 1, r"categories\[0\] is 1; it must be an object"),
        (("categories", 0), {"name": "person"}, r"categories\[0\]: id is missing"),
        (("annotations", 1, "category_id"), "person", "image 1: category_id is 'person'; it must"),
        (("annotations", 1), "1", r"annotations\[1\] is '1'; it must be an object"),
        (("annotations", 1, "id"), None, r"annotations\[1\]: id is None"),
        (("annotations", 1, "image_id"), "abc", "annotation 1: image_id is 'abc'"),
        (("annotations", 1, "image_id"), 99, "annotation 1: image_id 99 is none of the images"),
        (("annotations", 1, "bbox"), [1, 2, 3], r"of image 1: bbox is \[1, 2, 3\]"),
        (("annotations", 1, "bbox"), ..., "of image 1: bbox is missing"),
        (("annotations", 1, "bbox", 2), math.nan, "of image 1: bbox holds NaN"),
        (("annotations", 1, "bbox", 2), 10**400, "of image 1: bbox holds NaN, infinity or"),
        (("annotations", 2, "keypoints", 4), math.nan, "of image 2: keypoints holds NaN"),
        (("annotations", 2, "keypoints", 4), "4", "of image 2: keypoints is .* 51 numbers"),
        (("annotations", 2, "keypoints", 5), 7, "of image 2: keypoints has the visibility 7, not"),
        (("annotations", 2, "keypoint_scores", 4), math.inf, "keypoint_scores holds NaN"),
        (
            ("annotations", 2, "keypoint_scores", 4),
            -0.5,
            "of image 2: keypoint_scores holds -0.5; a",
        ),
        (("annotations", 2, "keypoint_scores", 4), 90, "of image 2: keypoint_scores holds 90; a s"),
        (("annotations", 2, "score"), "high", "of image 2: score is 'high'"),
    ],
)
def test_bad_labels_name_file_and_field(
    coco_folder: Path, place: tuple[str | int, ...], value: object, named: str
) -> None:
    document = json.loads(coco_folder.read_text())
    *path, field = place
    holder = reduce(lambda part, key: part[key], path, document)
    if value is ...:
        del holder[field]
    else:
        holder[field] = value
    coco_folder.write_text(json.dumps(document))
    with pytest.raises(BadData, match=named) as caught:
        list(read_labelled_images(coco_folder))
    assert str(coco_folder) in str(caught.value)


@pytest.mark.parametrize("content", [None, b"\x89PNG\r\n\xff\x00", b"{", b"[[]]", b""])
def test_a_file_that_holds_no_labels_is_named(coco_folder: Path, content: bytes | None) -> None:
    if content is None:
        coco_folder.unlink()
    else:
        coco_folder.write_bytes(content)
    for read in (read_labelled_images, read_people):
        with pytest.raises(BadData, match=r"labels\.json(:| cannot be read| is not COCO)"):
            list(read(coco_folder))


@pytest.mark.parametrize("layout", ["train2017", "images/train2017"])
def test_coco_as_published_gives_the_same_people(coco_folder: Path, layout: str) -> None:
    ours = [(image.name, image.photo.read()) for image in read_labelled_images(coco_folder)]
    root = coco_folder.parent
    labels = root / "annotations" / "person_keypoints_train2017.json"
    labels.parent.mkdir()
    coco_folder.rename(labels)
    (root / "images").rename(root / "moved")
    (root / layout).parent.mkdir(exist_ok=True)
    (root / "moved").rename(root / layout)
    assert [(image.name, image.photo.read()) for image in read_people(labels)] == ours


def test_missing_photo_is_named(coco_folder: Path) -> None:
    (coco_folder.parent / "images" / "3.png").unlink()
    with pytest.raises(BadData, match=r"3\.png is missing"):
        list(read_labelled_images(coco_folder))


def test_broken_photo_is_named_with_its_folder_or_shard(coco_folder: Path, pack: Path) -> None:
    (coco_folder.parent / "images" / "3.png").write_bytes(b"no photo")
    with pytest.raises(BadData, match=r"images/3\.png: not a readable photo"):
        _decode_all(coco_folder)
    shard = pack.with_name("pack_0.tar")
    shard.write_bytes(shard.read_bytes().replace(b"\x89PNG", b"\x88PNG"))
    with pytest.raises(BadData, match=r"pack_0\.tar: 0\.png: not a readable photo"):
        _decode_all(pack)


def _decode_all(labels: Path) -> None:
    for image in read_labelled_images(labels):
        image.photo.pixels_bgr()


def test_photos_of_one_name_in_a_shard_are_named(pack: Path) -> None:
    labels = json.loads(pack.read_text())
    labels["images"][1]["file_name"] = "0.png"
    pack.write_text(json.dumps(labels))
    with pytest.raises(BadData, match=r"pack\.json: image 1 .*: file_name '0\.png' stands twice"):
        list(read_labelled_images(pack))


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_shard_cut_short_is_named(pack: Path, share: float) -> None:
    shard = pack.with_name("pack_0.tar")
    whole = shard.read_bytes()
    content = len(whole.rstrip(b"\0"))
    shard.write_bytes(whole[: int(content * share)])
    with pytest.raises(BadData, match=r"pack_0\.tar"):
        list(read_labelled_images(pack))


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress])
def test_compressed_shard_cut_short_is_named(
    pack: Path, compress: Callable[[bytes], bytes]
) -> None:
    shard = pack.with_name("pack_0.tar")
    packed = compress(shard.read_bytes())
    shard.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(BadData, match=r"pack_0\.tar: shard is missing or cut short"):
        list(read_labelled_images(pack))


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_links_in_a_shard_are_the_photo_they_name(
    pack: Path, compress: Callable[[bytes], bytes]
) -> None:
    shard = pack.with_name("pack_0.tar")
    with tarfile.open(shard) as tar:
        photos = {member.name: tar.extractfile(member).read() for member in tar}
    first, *_, last = photos
    with tarfile.open(shard, "w") as tar:
        for name, photo in photos.items():
            member = tarfile.TarInfo(name)
            if name == last:
                member.type, member.linkname = tarfile.LNKTYPE, first
            else:
                member.size = len(photo)
            tar.addfile(member, io.BytesIO(photo))
    shard.write_bytes(compress(shard.read_bytes()))
    read = {image.name: image.photo.read() for image in read_labelled_images(pack)}
    assert {name: read[name] for name in photos} == photos | {last: photos[first]}


def test_photos_are_read_when_they_are_used(coco_folder: Path, pack: Path) -> None:
    """COCO's training photos would take 19 GB of memory."""
    for labels in (coco_folder, pack):
        photos = read_photos(labels, source_weights={}).values()
        assert all(photo.stored.held is None for photo in photos)
    scenes, _ = coco_scenes(coco_folder)
    assert all(scene.photo.held is None for scene in scenes)
    photo = next(iter(read_photos(coco_folder, source_weights={}).values()))
    photo.stored.path.unlink()
    with pytest.raises(BadData, match=r"photo .*images/0\.png: No such file"):
        photo.stored.pixels_bgr()
    photo = next(iter(read_photos(pack, source_weights={}).values()))
    shard = pack.with_name("pack_0.tar")
    shard.write_bytes(shard.read_bytes()[: photo.stored.start + 10])
    with pytest.raises(BadData, match=r"pack_0\.tar: 0\.png: the shard is cut short"):
        photo.stored.pixels_bgr()


def test_what_lies_in_a_shard_beside_its_photos_is_not_looked_at(pack: Path) -> None:
    whole = len(list(read_labelled_images(pack)))
    with tarfile.open(pack.with_name("pack_0.tar"), "a") as tar:
        link = tarfile.TarInfo("elsewhere.png")
        link.type, link.linkname = tarfile.SYMTYPE, "nowhere.png"
        tar.addfile(link)
    assert len(list(read_labelled_images(pack))) == whole


def test_photo_that_is_twice_in_its_shard_and_one_that_is_not_are_named(pack: Path) -> None:
    shard = pack.with_name("pack_0.tar")
    with tarfile.open(shard) as tar:
        first = tar.extractfile("0.png").read()
    member = tarfile.TarInfo("0.png")
    member.size = len(first)
    with tarfile.open(shard, "a") as tar:
        tar.addfile(member, io.BytesIO(first))
    with pytest.raises(BadData, match=r"pack_0\.tar: 0\.png is in it twice"):
        list(read_labelled_images(pack))
    with tarfile.open(shard, "w") as tar:
        tar.addfile(member, io.BytesIO(first))
    with pytest.raises(BadData, match=r"holds 1 of the \d+ photos .*; 1\.png is missing"):
        list(read_labelled_images(pack))


def test_photos_stand_upright(coco_folder: Path) -> None:
    labels = json.loads(coco_folder.read_text())
    del labels["images"][0]["width"]  # the photo that comes in its place has another
    coco_folder.write_text(json.dumps(labels))
    plain = files.encoded(".jpg")
    photo = coco_folder.parent / "images" / "0.png"
    photo.write_bytes(plain)
    stored = next(read_labelled_images(coco_folder)).photo.pixels_bgr()
    photo.write_bytes(files.jpeg_with_exif(plain, files.exif_block(6)))
    upright = next(read_labelled_images(coco_folder)).photo.pixels_bgr()
    np.testing.assert_array_equal(upright, np.rot90(stored, -1))


def test_labels_of_another_size_than_the_photo_are_refused(coco_folder: Path) -> None:
    labels = json.loads(coco_folder.read_text())
    labels["images"][0] |= {"width": 0, "height": 0}  # untold
    labels["images"][1] |= {"width": 400, "height": 480}
    coco_folder.write_text(json.dumps(labels))
    words = r"1\.png: the photo has 200x240 pixels, its labels are of 400x480"
    first, second, *_ = read_labelled_images(coco_folder)
    assert first.photo.pixels_bgr().shape == (240, 200, 3)
    with pytest.raises(BadData, match=words):
        second.photo.pixels_bgr()
    with pytest.raises(BadData, match=words):
        build_cache(coco_folder, coco_folder.parent / "cache")
    photo = read_photos(coco_folder, source_weights={})["1.png"]
    with pytest.raises(BadData, match=words):
        photo.stored.pixels_bgr()
    with pytest.raises(BadData, match=words):
        coco_scenes(coco_folder)
