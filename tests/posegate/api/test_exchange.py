"""What is counted of an exchange: posegate.api.exchange."""

import pytest

from posegate.api.exchange import record
from posegate.api.problems import Problem
from posegate.metrics import Metrics

AWAY = Problem("unavailable", "Not ready", 503, "networks are still being loaded")


@pytest.mark.parametrize(("route", "refused"), [("/v1/poses", 1.0), ("/readyz", 0.0)])
def test_a_probe_is_counted_as_a_request_and_not_as_a_refusal(route: str, refused: float) -> None:
    metrics = Metrics()
    record(
        metrics,
        face="http",
        method="GET",
        route=route,
        code="503",
        seconds=0.001,
        problems=[AWAY],
        request_id="mine",
    )
    text = metrics.exposition().decode()
    assert f'posegate_rejected_total{{reason="unavailable"}} {refused}' in text
    assert f'posegate_request_seconds_count{{code="503",face="http",route="{route}"}} 1.0' in text
