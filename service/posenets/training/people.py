"""Any label file that training knows -> people with the joints asked for.

COCO folders and packs, MPII (.json or .mat) and Leeds Sports Pose (`joints.mat`) are told apart by
what the file holds.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.io import whosmat

from posegate.coco_labels import label_file
from posegate.skeleton import COCO_KEYPOINTS
from posenets.training.lsp import read_lsp
from posenets.training.matlab import UNREADABLE
from posenets.training.mpii import read_mpii_json, read_mpii_mat
from posenets.training.records import BadData, LabelledImage, read_labelled_images


def read_people(
    labels: Path, joint_names: tuple[str, ...] = COCO_KEYPOINTS
) -> Iterator[LabelledImage]:
    """Every photo with those joints; a joint that the source does not know has v = 0.

    Raises BadData.
    """
    return (with_joints(image, joint_names) for image in _READERS[_kind(labels)](labels))


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


_READERS = {
    "coco": read_labelled_images,
    "mpii json": read_mpii_json,
    "mpii mat": read_mpii_mat,
    "lsp": read_lsp,
}
