#!/bin/sh
# Says in one line what this machine lacks, and the way out.  usage: preflight.sh PYTHON
set -eu
missing() { echo "missing: $1" >&2; exit 1; }

[ "$(uname -s)" = Linux ] || missing "Linux; this is $(uname -s): run it in a Linux machine or VM"
[ "$(uname -m)" = x86_64 ] || missing "an x86-64 processor; this is $(uname -m)"
[ -n "${1:-}" ] || missing "Python 3.11 or 3.12; install it, or name it: make PYTHON=/path/to/python3.11 demo"

"$1" - <<'PYTHON'
import ctypes.util
import importlib.util
import os
import platform
import sys
import sysconfig

def missing(what):
    print(f"missing: {what}", file=sys.stderr)
    sys.exit(1)

if not (3, 11) <= sys.version_info[:2] < (3, 13):
    missing(f"Python 3.11 or 3.12; {sys.executable} is {platform.python_version()}: make PYTHON=/path/to/python3.11 demo")
name, version = platform.libc_ver()
if name != "glibc" or tuple(int(part) for part in version.split(".")[:2]) < (2, 35):
    missing(f"glibc 2.35 or newer; this machine has {name or 'another C library'} {version}: use a newer distribution")
if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
    missing(f"the venv module of {sys.executable}; install your distribution's python3-venv package")
library = sysconfig.get_config_var("INSTSONAME") or ""
wanted = f"libpython{sys.version_info[0]}.{sys.version_info[1]}.so.1.0"
places = [sysconfig.get_config_var("LIBDIR") or "", "/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", os.path.join(sys.base_prefix, "lib")]
if not any(os.path.exists(os.path.join(place, wanted)) for place in places) and not ctypes.util.find_library(wanted[3:].split(".so")[0]):
    missing(f"{wanted}, which Triton's Python backend loads; install your distribution's libpython package, or a Python built with --enable-shared")
if not any(os.path.exists(os.path.join(place, "libgomp.so.1")) for place in places) and not ctypes.util.find_library("gomp"):
    missing("libgomp.so.1, which llama.cpp loads; install your distribution's package libgomp1 or libgomp")
PYTHON
