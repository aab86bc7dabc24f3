"""Bytes that are no HTTP/1.1 request, or not a whole one -> the problem that their sender is told.

h11's message may quote a header, and a header may hold a key, so only the message's first words are
looked at, and nothing of it is shown or logged.
"""

from posegate.api.problems import Problem

ENCODE = (
    "the first line must be `METHOD ADDRESS HTTP/1.1`, and whatever is special in the address must "
    "be percent-encoded (a space is %20)"
)
TINY_CHUNKS = "tiny chunks"
REASONS = {
    "missing mandatory host": "a Host header is needed",
    "found multiple host": "more than one Host header was sent",
    "bad content-length": "Content-Length must be one whole number of bytes, 0 or more",
    "conflicting content-length": "Content-Length was sent twice, with two numbers",
    "multiple transfer-encoding": "Transfer-Encoding was sent twice",
    "only transfer-encoding": "the only Transfer-Encoding taken is chunked",
    "illegal header": "every header must be a line `Name: value` without control characters",
    "receive buffer too long": "the head is too long; send fewer or shorter headers",
    "illegal chunk": "a chunk of the body must begin with its length in hexadecimal digits",
    TINY_CHUNKS: "the body comes in thousands of chunks of a few bytes; send larger ones",
    "malformed chunk": "a chunk of the body must be as long as it says and end with CRLF",
}
"""How h11's words begin, in lower case, and what a caller is told instead."""


def malformed(error: BaseException | None) -> Problem:
    """The problem of a request that h11 refused with `error`."""
    words = str(error).lower()
    reason = next((told for start, told in REASONS.items() if words.startswith(start)), ENCODE)
    return Problem("bad-request", "Bad Request", 400, f"this is no HTTP/1.1 request: {reason}")


def late(limit_s: float) -> Problem:
    """The problem of a request whose head did not come to its end in time."""
    detail = f"the request's head did not come within {limit_s:g} s (keep_alive_s); send it at once"
    return Problem("request-timeout", "Request Timeout", 408, detail)
