"""What is refused of a stream's options: posegate.api.options."""

import json

import pytest

from posegate.api.options import MOST_TOLD, parse_stream_query
from posegate.errors import BadOption


def test_of_many_wrong_options_the_first_are_named() -> None:
    text = json.dumps({f"nonsense-{number}": 1 for number in range(1000)})
    with pytest.raises(BadOption, match="'nonsense-0' is unknown") as caught:
        parse_stream_query(text)
    assert caught.value.detail.count("nonsense") == MOST_TOLD


@pytest.mark.parametrize("name", ["min_score", "min_keypoint_score", "max_people", "detect_every"])
def test_true_is_no_number(name: str) -> None:
    with pytest.raises(BadOption, match=f"'{name}': must be a number"):
        parse_stream_query(json.dumps({name: True}))
