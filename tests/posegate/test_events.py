"""Counts and ages of a stream: posegate.events."""

import pytest

from posegate.events import Dropped, Failed, Result, Tally


def test_summary_counts_frames_and_their_ages():
    tally = Tally()
    for age in range(1, 101):
        tally.add(Result(age, float(age), None, None))  # type: ignore[arg-type]
    tally.add(Dropped(101, 1e9, {}, "busy"))
    tally.add(Dropped(102, 1e9, {}, "rate"))
    tally.add(Failed(103, 1e9, {}, ValueError()))
    tally.add(Failed(None, 1e9, {}, ValueError()))  # was no frame
    summary = tally.summary()
    assert (summary.frames, summary.results, summary.errors) == (103, 100, 1)
    assert summary.dropped == {"busy": 1, "rate": 1}
    assert summary.age_p50_ms == pytest.approx(50, rel=0.03)
    assert summary.age_p95_ms == pytest.approx(95, rel=0.03)


def test_no_age_of_the_summary_is_above_all_ages():
    tally = Tally()
    tally.add(Result(1, 102.612, None, None))  # type: ignore[arg-type]
    summary = tally.summary()
    assert summary.age_p50_ms == summary.age_p95_ms == 102.612


def test_ages_beyond_the_scale_are_counted():
    tally = Tally()
    for age in (0.0, 1e12):
        tally.add(Result(0, age, None, None))  # type: ignore[arg-type]
    assert tally.summary().results == 2
