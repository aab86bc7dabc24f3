"""Leeds Sports Pose and its extension -> labelled people, from `joints.mat` and `images/`.

Johnson and Everingham, Clustered Pose and Nonlinear Appearance Models for Human Pose Estimation,
BMVC 2010; Learning Effective Human Pose Estimation from Inaccurate Annotation, CVPR 2011. One
person per photo, in order `im0001.jpg` (extension: `im00001.jpg`); pixels count from 1 (MATLAB).
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from posegate.types import F32
from posenets.training.matlab import read_variable
from posenets.training.records import BadData, LabelledImage, StoredPhoto

LSP_KEYPOINTS: tuple[str, ...] = (
    "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle",
    "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
    "upper_neck", "head_top",
)  # fmt: skip
JOINTS = len(LSP_KEYPOINTS)
MARGIN = 0.1
"""No box is labelled: that of the joints is widened on each side, by this share of its length."""


def read_lsp(labels: Path) -> Iterator[LabelledImage]:
    """Every photo of LSP (`joints` (3, 14, N)) or LSP-extended ((14, 3, N)).

    LSP places all joints and marks the hidden ones, so all count; the extension's third value is 0
    where a joint could not be placed. Raises BadData.
    """
    joints, source = _read_joints(labels)
    digits = 5 if source == "lspet" else 4
    for index, keypoints in enumerate(joints, start=1):
        path = labels.parent / "images" / f"im{index:0{digits}}.jpg"
        if not path.is_file():
            raise BadData(f"{labels}: photo {path} is missing")
        if not np.isfinite(keypoints).all():
            raise BadData(f"{labels}: image {path.name}: joints holds NaN or infinity")
        placed = keypoints[keypoints[:, 2] > 0, :2]
        people = 1 if len(placed) else 0
        yield LabelledImage(
            name=path.name,
            source=source,
            photo=StoredPhoto(path),
            boxes_xywh=_box(placed) if people else np.zeros((0, 4), np.float32),
            box_scores=np.ones(people, np.float32),
            keypoints=keypoints[None][:people],
            keypoint_scores=np.ones((people, JOINTS), np.float32),
            joint_names=LSP_KEYPOINTS,
        )


def _read_joints(labels: Path) -> tuple[F32, str]:
    """(N, 14, 3) with x, y from 0 and v of 0 or 2, and the name of the set."""
    given = read_variable(labels, "joints", squeeze=False)
    try:
        joints = np.asarray(given, np.float32)
    except (TypeError, ValueError) as error:
        raise BadData(f"{labels}: joints is not (3, 14, N) or (14, 3, N) numbers") from error
    if joints.ndim == 3 and joints.shape[:2] == (3, JOINTS):
        joints, source = joints.transpose(2, 1, 0).copy(), "lsp"
        shown = np.ones(joints.shape[:2], bool)
    elif joints.ndim == 3 and joints.shape[:2] == (JOINTS, 3):
        joints, source = joints.transpose(2, 0, 1).copy(), "lspet"
        shown = joints[..., 2] > 0
    else:
        raise BadData(f"{labels}: joints is {joints.shape}, not (3, 14, N) or (14, 3, N)")
    places = np.where(shown[..., None], joints[..., :2] - 1, np.float32(0))
    return np.concatenate([places, 2 * shown[..., None].astype(np.float32)], -1), source


def _box(placed: F32) -> F32:
    """(1, 4) xywh about joints (n, 2), n at least 1."""
    low, high = placed.min(0), placed.max(0)
    margin = MARGIN * (high - low).max()
    return np.concatenate([low - margin, high - low + 2 * margin])[None].astype(np.float32)
