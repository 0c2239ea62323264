"""Ports of listeners that start a moment after they were chosen."""

from __future__ import annotations

import subprocess
import sys

from embedded.ports import free_port, hold, is_free

_ASK = "import sys; from embedded.ports import hold; print(hold(int(sys.argv[1])), flush=True); sys.stdin.read()"


def other_holds(port: int) -> tuple[subprocess.Popen[str], bool]:
    """Another process that asks for a port, and whether it got it."""
    process = subprocess.Popen(
        [sys.executable, "-c", _ASK, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline() == "True\n"


def test_a_chosen_port_is_no_other_process_s() -> None:
    """Also while nothing listens there yet; this process may ask for it again."""
    port = free_port()
    process, got_it = other_holds(port)
    with process:
        assert not got_it
    assert is_free(port)
    assert hold(port)
    assert free_port() != port


def test_a_port_is_free_again_when_its_process_was_killed() -> None:
    port = 10_000
    while not is_free(port):
        port += 1
    process, got_it = other_holds(port)
    with process:
        assert got_it
        assert not hold(port)
        process.kill()
    assert hold(port)
