"""Whether this machine can run local instances: what is there, what is missing, and the way out."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

from services.deploy.compute.triton import (
    PYTHON_LIBRARY,
    PYTHON_VERSION,
    TritonMissing,
    find_triton,
    triton_environment,
)

_GLIBC_MIN = (2, 35)
OPENMP_LIBRARY = "libgomp.so.1"
_PYTHONS = ("3.11", "3.12")


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        name: What was looked at, two or three words.
        ok: Whether it will do.
        detail: What was found.
        way_out: What to do when it will not do; empty when it will.
    """

    name: str
    ok: bool
    detail: str
    way_out: str


def preflight() -> list[Finding]:
    """Look at everything a local instance needs; takes well under a second and changes nothing."""
    checks: list[Callable[[], Finding]] = [_machine, _glibc, _python, _triton, _python_library, _openmp_library]
    return [check() for check in checks]


def _finding(name: str, ok: bool, detail: str, way_out: str) -> Finding:
    return Finding(name, ok, detail, "" if ok else way_out)


def _machine() -> Finding:
    found = f"{platform.system()} {platform.machine()}"
    way_out = "run local instances on Linux x86-64, for example in a container or a virtual machine"
    return _finding("operating system", found == "Linux x86_64", found, way_out)


def _glibc() -> Finding:
    name, version = platform.libc_ver()
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    way_out = "Triton needs glibc 2.35 or newer: Debian 12, Ubuntu 22.04, Fedora 36 or later"
    return _finding("C library", name == "glibc" and numbers >= _GLIBC_MIN, f"{name} {version}".strip(), way_out)


def _python() -> Finding:
    way_out = f"install with Python {' or '.join(_PYTHONS)}; Triton's stub and numpy below 2 go with these"
    return _finding("Python", PYTHON_VERSION in _PYTHONS, f"{PYTHON_VERSION} at {sys.executable}", way_out)


def _triton() -> Finding:
    try:
        files = find_triton()
    except TritonMissing as missing:
        return Finding("Triton", False, str(missing), "install the extra: pip install 'modelyard[embedded]'")
    return Finding("Triton", True, f"nvidia-pytriton with a stub for Python {PYTHON_VERSION} at {files.stub}", "")


def _python_library() -> Finding:
    """Without it a model load hangs instead of failing."""
    return _loads(
        "Python library",
        PYTHON_LIBRARY,
        f"install the shared library of this Python (Debian and Ubuntu: apt install libpython{PYTHON_VERSION}; "
        "pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install), or use a Python from uv",
    )


def _openmp_library() -> Finding:
    """llama.cpp is built against it; slim images leave it out."""
    return _loads(
        "OpenMP library", OPENMP_LIBRARY, "apt install libgomp1 (Debian, Ubuntu), dnf install libgomp (Fedora)"
    )


def _loads(name: str, library: str, way_out: str) -> Finding:
    """Load a library as Triton's stub will."""
    try:
        environment = triton_environment(find_triton(), os.environ)
    except TritonMissing:
        return Finding(name, False, "not looked for, because Triton is missing", "install Triton first")
    loads = f"import ctypes; ctypes.CDLL({library!r})"
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", loads], env=environment, capture_output=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(name, False, f"{library}: {error}", "run the command again when the machine is less busy")
    found = "loads" if done.returncode == 0 else "cannot be loaded"
    return _finding(name, done.returncode == 0, f"{library} {found}", way_out)
