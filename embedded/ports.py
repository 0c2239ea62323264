"""Loopback ports for listeners."""

from __future__ import annotations

import random
import socket
from pathlib import Path

_held: dict[int, socket.socket] = {}


def is_free(port: int) -> bool:
    """Whether a listener could take a loopback port now; one in TIME_WAIT is free for it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def hold(port: int) -> bool:
    """Keep a port for this process until it ends: among those that ask like this, no other one on this machine gets it
    between its choice and its listener. True where it is held."""
    if port in _held:
        return True
    # A name of the kernel's own, without a file: it goes with the process, however that ends.
    name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        name.bind(f"\0modelyard-port-{port}")
    except OSError:
        name.close()
        return False
    _held[port] = name
    return True


def take(port: int) -> bool:
    """Whether nobody listens on a port, and it is held for this process now."""
    return is_free(port) and hold(port)


def free_port() -> int:
    """A loopback port that nobody listens on at this moment, held for this process.

    Not one of those that the kernel gives to outgoing connections: such a connection may take a port before its
    listener does, and keep it for hours.
    """
    ports = _listener_ports()
    while True:
        port = random.choice(ports)  # noqa: S311 - no secret
        if port not in _held and take(port):
            return port


def _listener_ports() -> range:
    """Unprivileged ports below the kernel's own, or above them where there are more."""
    try:
        lowest, highest = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    except OSError:
        lowest, highest = 32768, 60999
    return max(range(10_000, lowest), range(highest + 1, 65_536), key=len) or range(10_000, 65_536)
