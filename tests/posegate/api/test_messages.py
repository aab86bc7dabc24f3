"""What is read of gRPC's messages: posegate.api.messages."""

import pytest

from posegate.api.messages import read_options
from posegate.api.options import MAX_BOXES
from posegate.api.pb import pose_pb2 as pb
from posegate.errors import BadOption


def asking_for(boxes: int) -> pb.EstimateOptions:
    box = pb.Box(x=1, y=2, width=3, height=4)
    return pb.EstimateOptions(max_people=10**6, boxes=pb.Boxes(boxes=[box] * boxes))


@pytest.mark.parametrize("name", ["dark", "quarter", "argmax"])
def test_decoders_are_those_of_http(name: str) -> None:
    value = pb.Decode.Value(f"DECODE_{name.upper()}")
    assert read_options(pb.EstimateOptions(decode=value)).decode == name


def test_the_number_of_boxes_is_bounded_whatever_the_caller_allows() -> None:
    assert len(read_options(asking_for(MAX_BOXES)).boxes_xywh) == MAX_BOXES
    with pytest.raises(BadOption, match=f"at most {MAX_BOXES} are read"):
        read_options(asking_for(MAX_BOXES + 1))
