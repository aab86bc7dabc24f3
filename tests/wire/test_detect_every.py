"""The stream option detect_every over both wires."""

import numpy as np
import pytest

from fakes import DETECTOR_NAME
from posegate.client import Client
from posegate.errors import BadOption

FRAMES = 13


def test_frames_without_the_detector_give_the_same_people(url: str, photo: bytes):
    with Client(url, timeout_s=60) as client:
        options = {"mode": "every", "track": True}
        *every, _ = client.stream([photo] * FRAMES, **options)
        *some, summary = client.stream([photo] * FRAMES, **options, detect_every=4)
    assert summary["results"] == FRAMES
    assert {event["detector"] for event in every} == {DETECTOR_NAME}
    detected = [event["detector"] == DETECTOR_NAME for event in some]
    assert detected[0]
    assert FRAMES / 4 <= sum(detected) <= FRAMES / 2
    for event, reference in zip(some, every, strict=True):
        assert ("detect" in event["stages_ms"]) == (event["detector"] is not None)
        for person, known in zip(event["people"], reference["people"], strict=True):
            assert (person["id"], person["score"]) == (known["id"], known["score"])
            np.testing.assert_allclose(person["box"], known["box"], atol=0.5)
            for name, joint in person["keypoints"].items():
                np.testing.assert_allclose(joint, known["keypoints"][name], atol=0.5)


@pytest.mark.parametrize("options", [{"detect_every": 3}, {"detect_every": 0, "track": True}])
def test_what_cannot_be_asked_is_refused(url: str, photo: bytes, options: dict[str, object]):
    with Client(url, timeout_s=60) as client, pytest.raises(BadOption, match="detect_every"):
        list(client.stream([photo], **options))
