"""What every exchange leaves behind, whichever face had it: an id, a log line, metrics."""

import logging
import re
import uuid
from collections.abc import Sequence

from posegate.api.problems import Problem
from posegate.metrics import Metrics

log = logging.getLogger(__name__)

PROBES = ("/livez", "/readyz")
"""Routes whose problems are not counted as refusals: they answer whoever watches the service."""
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")


def chosen_id(asked: str) -> str:
    """The id that the caller asked for (x-request-id), or a new one where that could do harm."""
    return asked if REQUEST_ID.fullmatch(asked) else uuid.uuid4().hex


def record(
    metrics: Metrics,
    *,
    face: str,
    method: str,
    route: str,
    code: str,
    seconds: float,
    problems: Sequence[Problem],
    request_id: str,
) -> None:
    """Count and log an exchange that has ended; `code` is HTTP's or gRPC's."""
    metrics.request_seconds.labels(face, route, code).observe(seconds)
    for problem in problems if route not in PROBES else ():
        metrics.rejected.labels(problem.slug).inc()
    if not log.isEnabledFor(logging.INFO):
        return
    extra: dict[str, object] = {"request_id": request_id, "ms": round(seconds * 1000, 2)}
    if problems:
        extra["problem"] = "; ".join(problem.detail for problem in problems)
    log.info("%s %s %s", method, route, code, extra=extra)
