"""OKS per joint, against COCO's own evaluator: posenets.evaluation.oks."""

import contextlib
import io

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from posegate.skeleton import COCO_SIGMAS
from posenets.evaluation.oks import joint_oks, oks_per_joint, person_oks

PEOPLE = 5


def made() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Found and true places (P, 17, 2), labelled (P, 17), areas (P,)."""
    random = np.random.default_rng(0)
    true = random.uniform(0, 300, (PEOPLE, 17, 2))
    found = true + random.normal(0, 6, true.shape)
    return found, true, random.uniform(size=(PEOPLE, 17)) < 0.7, random.uniform(4e3, 4e4, PEOPLE)


def coco_oks(
    found: np.ndarray, true: np.ndarray, labelled: np.ndarray, areas: np.ndarray
) -> list[float]:
    """COCO's own figure: one photo per person."""
    truth = COCO()
    people = range(PEOPLE)
    truth.dataset = {
        "images": [{"id": i} for i in people],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [
            {
                "id": i + 1,
                "image_id": i,
                "category_id": 1,
                "iscrowd": 0,
                "area": areas[i],
                "bbox": [0, 0, 300, 300],
                "num_keypoints": int(labelled[i].sum()),
                "keypoints": np.column_stack([true[i], 2 * labelled[i]]).ravel().tolist(),
            }
            for i in people
        ],
        "info": {},
    }
    results = [
        {
            "image_id": i,
            "category_id": 1,
            "score": 1.0,
            "keypoints": np.column_stack([found[i], np.ones(17)]).ravel().tolist(),
        }
        for i in people
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "keypoints")
        evaluation.evaluate()
    return [float(evaluation.ious[(i, 1)][0, 0]) for i in people]


def test_a_persons_figure_is_cocos() -> None:
    found, true, labelled, areas = made()
    ours = person_oks(joint_oks(found, true, labelled, areas))
    np.testing.assert_allclose(ours, coco_oks(found, true, labelled, areas), rtol=1e-7)


def test_a_joint_one_spread_away_scores_the_same_for_every_joint() -> None:
    _, true, _, areas = made()
    away = 2 * COCO_SIGMAS * np.sqrt(areas)[:, None]
    found = true + np.stack([away, np.zeros_like(away)], -1)
    similarity = joint_oks(found, true, np.ones((PEOPLE, 17), bool), areas)
    np.testing.assert_allclose(oks_per_joint(similarity), np.exp(-0.5), rtol=1e-6)


def test_unlabelled_joints_do_not_count_and_nothing_found_scores_zero() -> None:
    _, true, labelled, areas = made()
    labelled[:, 3], labelled[2] = False, False
    found = true.copy()
    found[:, 0] = np.nan
    similarity = joint_oks(found, true, labelled, areas)
    assert np.isnan(oks_per_joint(similarity)[3])
    assert np.isnan(person_oks(similarity)[2])
    assert (similarity[labelled[:, 0], 0] == 0).all()
    assert oks_per_joint(similarity)[1] == 1
