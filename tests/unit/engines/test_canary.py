"""An engine that is busy is told from one that hangs."""

from __future__ import annotations

import threading
from collections.abc import Callable

from engines.canary import Pulse


def feeling(pulse: Pulse, gone: Callable[[], bool] = lambda: False) -> tuple[threading.Thread, list[bool]]:
    """Somebody who waits for a beat, on a thread of its own; what it felt."""
    felt: list[bool] = []
    thread = threading.Thread(target=lambda: felt.append(pulse.feel(gone)))
    thread.start()
    return thread, felt


def test_an_idle_engine_has_no_pulse_to_wait_for() -> None:
    assert Pulse().feel(lambda: False) is False


def test_a_call_that_gets_on_is_felt() -> None:
    pulse = Pulse()
    with pulse.running():
        thread, felt = feeling(pulse)
        # Beats before it looked do not count, so they go on until one does.
        while thread.is_alive():
            pulse.beat()
            thread.join(0.01)
    assert felt == [True]


def test_the_end_of_all_calls_ends_the_waiting() -> None:
    pulse = Pulse()
    with pulse.running():
        thread, felt = feeling(pulse)
    thread.join(5)
    assert felt == [False]


def test_a_call_that_hangs_is_waited_for_until_nobody_listens() -> None:
    """Which the keeper takes for the end of the engine."""
    pulse, left = Pulse(), threading.Event()
    with pulse.running():
        thread, felt = feeling(pulse, left.is_set)
        thread.join(0.1)
        assert thread.is_alive()
        left.set()
        thread.join(5)
    assert felt == [False]
