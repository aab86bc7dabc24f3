import pytest

from posegate import errors
from posegate.errors import PosegateError, status_of

CONTRACT = {
    "UnknownImageFormat": ("bad-image", 415, "INVALID_ARGUMENT", False),
    "BadImage": ("bad-image", 422, "INVALID_ARGUMENT", False),
    "TooLarge": ("too-large", 413, "RESOURCE_EXHAUSTED", False),
    "BadOption": ("bad-option", 422, "INVALID_ARGUMENT", False),
    "UnknownModel": ("unknown-model", 404, "NOT_FOUND", False),
    "Overloaded": ("overloaded", 429, "RESOURCE_EXHAUSTED", True),
    "DeadlineExceeded": ("deadline", 504, "DEADLINE_EXCEEDED", False),
    "BackendDown": ("unavailable", 503, "UNAVAILABLE", True),
    "Unauthenticated": ("unauthenticated", 401, "UNAUTHENTICATED", False),
}


@pytest.mark.parametrize("name", CONTRACT)
def test_status_is_that_of_the_contract(name: str) -> None:
    status = status_of(getattr(errors, name)("why"))
    assert (status.slug, status.http, status.grpc, status.retryable) == CONTRACT[name]


def test_every_error_has_a_status() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, PosegateError) and kind is not PosegateError
    ]
    assert len(kinds) > len(CONTRACT)
    for kind in kinds:
        assert status_of(kind("why")).title


def test_error_of_a_narrower_kind_has_the_status_of_the_class_above_it() -> None:
    class Blurred(errors.BadImage):
        pass

    assert status_of(Blurred("why")).http == 422


def test_error_without_a_status_is_our_own_mistake() -> None:
    with pytest.raises(KeyError, match="PosegateError"):
        status_of(PosegateError("why"))


def test_detail_and_retry_time_are_kept() -> None:
    error = errors.Overloaded("The queue is full.", retry_after_s=1.5)
    assert (str(error), error.detail, error.retry_after_s) == (error.detail, error.detail, 1.5)
    assert errors.BadOption("no").retry_after_s is None
