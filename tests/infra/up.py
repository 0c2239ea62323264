"""A platform as a person runs it: `modelyard up` in a process of its own, and the command line beside it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

READY_S_MAX = 60.0
STOP_S_MAX = 60.0
# A model load that hangs is ended after 120 s, and begun again.
COMMAND_S_MAX = 160.0
_COMMAND = [sys.executable, "-c", "from cli.main import main; main()"]


class Up:
    """One data folder, with or without a platform running in it.

    Args:
        settings: Environment of the platform, such as {"MODELYARD_BILLING_QUOTE_VALID_S": "1"}.
    """

    def __init__(self, home: Path, settings: dict[str, str] | None = None) -> None:
        self.home = home
        self._settings = settings or {}
        self.process: subprocess.Popen[bytes] | None = None
        self.log = home.with_suffix(".log")

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, **self._settings, "MODELYARD_HOME": str(self.home), "PYTHONWARNINGS": "default"}

    @property
    def addresses(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.home / "addresses.json").read_text())
        return found

    def start(self) -> None:
        """Start, and wait until everything answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*_COMMAND, "up"], env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + READY_S_MAX
        while not (self.home / "addresses.json").exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the platform did not start:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.05)

    def stop(self) -> int:
        """Press Ctrl-C and wait; the exit status."""
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(STOP_S_MAX)
        finally:
            self.process.kill()
            self.process.wait()
            self.process = None

    def run(self, *arguments: str, status: int | None = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command; its exit status must be `status`."""
        done = subprocess.run(
            [*_COMMAND, *arguments],
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_S_MAX,
            check=False,
        )
        assert status is None or done.returncode == status, (
            f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done

    def json(self, *arguments: str, **environment: str) -> Any:
        """What a command prints with `--json`: one document, or the last line of a stream."""
        text = self.run(*arguments, "--json", **environment).stdout
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return json.loads(text.splitlines()[-1])

    def tried(self, model: str, text: str, project: str) -> list[dict[str, Any]]:
        """What comes back of a try, piece by piece, without what was waited for."""
        lines = self.run("models", "try", model, text, "-p", project, "--json").stdout.splitlines()
        return [piece for piece in map(json.loads, lines) if not piece["progress"]]

    def get(self, path: str) -> tuple[int, dict[str, str], str]:
        """GET from the REST face: status, headers by lower-case name, text."""
        return self.send("GET", path)

    def send(
        self,
        method: str,
        path: str,
        body: bytes | Iterator[bytes] | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, dict[str, str], str]:
        """Any request to the REST face, as bare as it is given; an iterator of parts is sent chunked."""
        connection = http.client.HTTPConnection(self.addresses["rest"].removeprefix("http://"), timeout=30)
        try:
            chunked = {"transfer-encoding": "chunked"} if isinstance(body, Iterator) else {}
            connection.request(method, path, body, {**(headers or {}), **chunked}, encode_chunked=bool(chunked))
            answer = connection.getresponse()
            headers = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, headers, answer.read().decode()
        finally:
            connection.close()

    def processes(self) -> list[str]:
        """Command lines that name this folder, the supervisor's own apart: services, broker, keepers, Triton."""
        return processes_naming(str(self.home))


def wait_for(holds: Callable[[], bool], *, s_max: float = 60.0) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + s_max
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"does not hold within {s_max:g} s")
        time.sleep(0.1)


def processes_naming(text: str) -> list[str]:
    """Command lines and environments of living processes that name `text`."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            content = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if text.encode() in content and state not in "ZX":
            found.append(content.split(b"\0\0")[0].replace(b"\0", b" ").decode(errors="replace")[:200])
    return found


@contextmanager
def running_up(home: Path, settings: dict[str, str] | None = None) -> Iterator[Up]:
    """A platform for the length of the block."""
    up = Up(home, settings)
    try:
        up.start()
        yield up
    finally:
        up.stop()
