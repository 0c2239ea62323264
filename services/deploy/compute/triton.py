"""How Triton from the wheel nvidia-pytriton is started: files, environment and flags."""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from chassis.instance_secret import INSTANCE_SECRET_KEY

PYTHON_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
PYTHON_LIBRARY = f"libpython{PYTHON_VERSION}.so.1.0"
_PROTOCOLS = "health,metadata,inference,shared-memory,model-config,model-repository,statistics,trace,logging"
_KEPT_ENVIRONMENT = ("HOME", "LANG", "LC_ALL", "TMPDIR", "TZ")


class TritonMissing(Exception):
    """A file of Triton is not installed; the text names it and the way out."""


@dataclass(frozen=True)
class TritonFiles:
    """Where the wheel's parts lie."""

    server: Path
    backend_library: Path
    backend_utils: Path
    stub: Path
    libraries: Path


def find_triton() -> TritonFiles:
    """Find the wheel's files without importing its package, which is slow and patches the process.

    Raises:
        TritonMissing: the wheel, or its stub for this Python, is not there.
    """
    found = importlib.util.find_spec("pytriton")
    if found is None or not found.submodule_search_locations:
        raise TritonMissing("the package nvidia-pytriton is not installed; install nvidia-pytriton==0.7.0")
    package = Path(next(iter(found.submodule_search_locations)))
    root = package / "tritonserver"
    files = TritonFiles(
        server=root / "bin" / "tritonserver",
        backend_library=root / "backends" / "python" / "libtriton_python.so",
        backend_utils=root / "backends" / "python" / "triton_python_backend_utils.py",
        stub=root / "python_backend_stubs" / PYTHON_VERSION / "triton_python_backend_stub",
        libraries=package.parent / "nvidia_pytriton.libs",
    )
    for path in (files.server, files.backend_library, files.backend_utils, files.stub, files.libraries):
        if not path.exists():
            raise TritonMissing(f"{path} is missing; nvidia-pytriton 0.7.0 has it for Python 3.8 to 3.13 on x86-64")
    return files


def prepare_backends(folder: Path, files: TritonFiles) -> Path:
    """Lay out a backends folder with the Python backend and the stub of this Python; returns it."""
    python = folder / "python"
    python.mkdir(parents=True, exist_ok=True)
    for source in (files.backend_library, files.backend_utils, files.stub):
        link = python / source.name
        link.unlink(missing_ok=True)
        link.symlink_to(source)
    return folder


def python_library_folders() -> list[str]:
    """Where libpython3.X.so, which the stub links against, lies: as built, and, for a moved Python, beside it."""
    return [folder for folder in (sysconfig.get_config_var("LIBDIR"), f"{sys.base_prefix}/lib") if folder]


def triton_environment(files: TritonFiles, given: Mapping[str, str]) -> dict[str, str]:
    """Environment of Triton and its stubs: a few neutral variables of `given` and what the two need."""
    library_folders = [str(files.libraries), *python_library_folders(), given.get("LD_LIBRARY_PATH")]
    return {
        **{name: given[name] for name in _KEPT_ENVIRONMENT if name in given},
        "LD_LIBRARY_PATH": ":".join(folder for folder in library_folders if folder),
        # The stub takes the first python3 on PATH as its own and reads its site-packages.
        "PATH": f"{Path(sys.executable).parent}:{given.get('PATH', os.defpath)}",
        "VIRTUAL_ENV": sys.prefix,
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_WAIT_POLICY": "passive",
    }


def triton_arguments(
    files: TritonFiles,
    *,
    repository: Path,
    backends: Path,
    host: str,
    grpc_port: int,
    metrics_port: int,
    secret: str,
    shm_prefix: str,
    exit_timeout_s: int,
) -> list[str]:
    """Command line of one instance's Triton.

    Every gRPC protocol needs the instance's secret. HTTP is off; metrics listen on loopback only.
    """
    return [
        str(files.server),
        f"--model-repository={repository}",
        "--model-control-mode=explicit",
        # Completing a configuration starts the stub once more; ours are complete.
        "--disable-auto-complete-config",
        f"--backend-directory={backends}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        "--backend-config=python,shm-default-byte-size=4194304",
        f"--exit-timeout-secs={exit_timeout_s}",
        "--allow-http=false",
        "--allow-grpc=true",
        f"--grpc-address={host}",
        f"--grpc-port={grpc_port}",
        f"--grpc-restricted-protocol={_PROTOCOLS}:{INSTANCE_SECRET_KEY}={secret}",
        "--allow-metrics=true",
        "--allow-gpu-metrics=false",
        "--metrics-address=127.0.0.1",
        f"--metrics-port={metrics_port}",
        "--log-format=ISO8601",
    ]
