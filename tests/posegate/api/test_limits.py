"""How much time a request has: posegate.api.limits."""

import pytest

from posegate.api.limits import Deadline


@pytest.mark.parametrize(("asked_s", "given_s"), [(None, 30.0), (2.0, 2.0), (60.0, 30.0)])
def test_a_client_may_ask_for_less_time_and_never_for_more(
    asked_s: float | None, given_s: float
) -> None:
    assert Deadline.after(asked_s, limit_s=30.0).timeout_s == given_s
