"""Puts limits on itself and becomes the given program: `confine.py --parent PID --cpus 0,1 [--cgroup DIR] -- PROGRAM`.

Run as a script with the standard library alone, between the keeper's fork and Triton, so that a keeper with threads
never runs code in a forked child.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--cpus", required=True)
    parser.add_argument("--cgroup", default="")
    parser.add_argument("program", nargs="+")
    given = parser.parse_args(arguments)
    # A keeper that is killed takes Triton along; the stubs end when they miss their parent.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != given.parent:
        sys.exit("the keeper is gone")
    os.sched_setaffinity(0, {int(cpu) for cpu in given.cpus.split(",")})
    # A core dump would hold prompts.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if given.cgroup:
        with open(os.path.join(given.cgroup, "cgroup.procs"), "w") as file:
            file.write(str(os.getpid()))
    os.execv(given.program[0], given.program)  # noqa: S606 - a program from the keeper's own list, no shell


if __name__ == "__main__":
    main(sys.argv[1:])
