"""Any label file that training knows -> people with the joints asked for.

COCO folders and packs, MPII (.json or .mat) and Leeds Sports Pose (`joints.mat`) are told apart by
what the file holds.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.io import whosmat

from posegate.coco_labels import label_file, names_keypoints, own_keypoints
from posegate.errors import BadOption
from posegate.skeleton import COCO_KEYPOINTS, flip_order
from posenets.training.lsp import read_lsp
from posenets.training.matlab import UNREADABLE
from posenets.training.mpii import MPII_KEYPOINTS, read_mpii_json, read_mpii_mat
from posenets.training.records import BadData, LabelledImage, read_labelled_images

Joints = Literal["coco", "mpii", "own"]
"""Which joints are to be learned: COCO's 17, MPII's 16, or those that a COCO file names."""
KNOWN_JOINTS = {"coco": COCO_KEYPOINTS, "mpii": MPII_KEYPOINTS}
"""Joints that are found in every label file by their names."""


def labelled_as(labels: Path, joint_names: tuple[str, ...]) -> tuple[str, ...]:
    """The joints to ask a COCO file for: COCO's in place of MPII's that it does not name.

    Raises BadData.
    """
    if joint_names != MPII_KEYPOINTS:
        return joint_names
    try:
        named = names_keypoints(label_file(labels), joint_names)
    except BadOption as error:
        raise BadData(error.detail) from error
    return joint_names if named else COCO_KEYPOINTS


def joints_asked_for(joints: Joints, labels: Path) -> tuple[str, ...]:
    """Their names; raises BadData where the labels have none of their own."""
    if joints != "own":
        return KNOWN_JOINTS[joints]
    if _kind(labels) != "coco":
        raise BadData(f"{labels}: only files of COCO's form name joints of their own")
    try:
        return own_keypoints(label_file(labels))
    except BadOption as error:
        raise BadData(error.detail) from error


def mirrored_joints(joint_names: tuple[str, ...]) -> str:
    """A sentence on which joints a mirrored picture swaps: it is their names that tell it."""
    theirs = enumerate(flip_order(joint_names).tolist())
    pairs = [f"{joint_names[a]} with {joint_names[b]}" for a, b in theirs if a < b]
    swaps = ", ".join(pairs) or "none: no two names differ by left_ and right_ alone"
    return f"{len(joint_names)} joints; a mirrored picture swaps {swaps}"


def read_people(
    labels: Path, joint_names: tuple[str, ...] = COCO_KEYPOINTS
) -> Iterator[LabelledImage]:
    """Every photo with those joints; a joint that the source does not know has v = 0.

    Of a COCO file, joints that are not COCO's are those of the categories that name them; MPII's
    are taken from COCO's where none does. Raises BadData.
    """
    kind = _kind(labels)
    if kind == "coco" and labelled_as(labels, joint_names) == joint_names:
        return read_labelled_images(labels, joint_names)
    return (with_joints(image, joint_names) for image in _READERS[kind](labels))


def with_joints(image: LabelledImage, joint_names: tuple[str, ...]) -> LabelledImage:
    """The same people with those joints, matched by name."""
    if image.joint_names == joint_names:
        return image
    index = {name: joint for joint, name in enumerate(image.joint_names)}
    known = [joint for joint, name in enumerate(joint_names) if name in index]
    theirs = [index[joint_names[joint]] for joint in known]
    people = len(image.boxes_xywh)
    keypoints = np.zeros((people, len(joint_names), 3), np.float32)
    scores = np.ones((people, len(joint_names)), np.float32)
    keypoints[:, known] = image.keypoints[:, theirs]
    scores[:, known] = image.keypoint_scores[:, theirs]
    return replace(image, keypoints=keypoints, keypoint_scores=scores, joint_names=joint_names)


def _kind(labels: Path) -> str:
    if labels.suffix != ".mat":
        try:
            with label_file(labels).open(encoding="utf-8", errors="replace") as file:
                return "mpii json" if file.read(64).lstrip().startswith("[") else "coco"
        except OSError:
            return "coco"  # whose reader says what is wrong with the file
    try:
        variables = {name for name, *_ in whosmat(labels)}
    except UNREADABLE as error:
        raise BadData(f"{labels}: not a MATLAB file of version 5 ({error})") from error
    kinds = {"RELEASE": "mpii mat", "joints": "lsp"}
    found = [kind for name, kind in kinds.items() if name in variables]
    if not found:
        raise BadData(f"{labels}: holds neither MPII's RELEASE nor LSP's joints")
    return found[0]


_READERS: dict[str, Callable[[Path], Iterator[LabelledImage]]] = {
    "coco": read_labelled_images,
    "mpii json": read_mpii_json,
    "mpii mat": read_mpii_mat,
    "lsp": read_lsp,
}
