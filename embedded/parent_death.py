"""Ties a child's life to its parent's, so that a killed parent leaves nothing running.

Run as a program: it asks the kernel to kill it with its parent, then becomes the command.

    python embedded/parent_death.py PARENT_PID COMMAND [ARGUMENT …]
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def tied_command(command: Sequence[str]) -> list[str]:
    """The command line that runs `command` and dies (SIGKILL) when this process does.

    Not a `preexec_fn`: that may deadlock in a process with threads. The kernel watches the thread that
    starts the child, so start it from one that lives as long as the process.
    """
    return [sys.executable, "-I", "-S", str(Path(__file__)), str(os.getpid()), *command]


def _main(parent_pid: int, command: list[str]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    # The parent may have died before the kernel was asked.
    if os.getppid() != parent_pid:
        sys.exit(f"parent {parent_pid} is gone")
    os.execv(command[0], command)  # noqa: S606 (no shell is wanted)


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2:])
