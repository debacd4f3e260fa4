"""The one back-off: growing pauses, a server's wish, and an end."""

from __future__ import annotations

from itertools import islice

from components.retry import Backoff, Patience, pauses
from tests.doubles.kfp_api import Clock


def test_pauses_grow_up_to_the_longest() -> None:
    assert list(islice(pauses(1.0, 5.0), 5)) == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert list(islice(pauses(2.0, 30.0, factor=1.5), 3)) == [2.0, 3.0, 4.5]


def test_no_pause_goes_beyond_the_time_that_is_given() -> None:
    clock = Clock()
    backoff = Backoff(Patience(give_up_seconds=10.0, clock=clock, sleep=clock.sleep))
    waited = [backoff.wait() for _ in range(4)]
    assert waited == [True, True, True, False]
    assert clock.slept == [1.0, 2.0, 4.0]


def test_a_server_may_ask_for_a_longer_pause() -> None:
    clock = Clock()
    backoff = Backoff(Patience(give_up_seconds=10.0, clock=clock, sleep=clock.sleep))
    assert backoff.wait(least_seconds=7.0)
    assert not backoff.wait(least_seconds=4.0)
    assert clock.slept == [7.0]
