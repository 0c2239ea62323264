"""Base URLs that an operator sets, checked before anything is sent there."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

LENGTH_MAX = 512


class WebAddressRefused(Exception):
    """A base URL that nothing is sent to; says why and what is allowed."""


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_base_url(url: str, *, insecure: bool = False) -> str:
    """The URL without a slash at its end: `https://host[:port][/path]`, and clear text to this machine only.

    Args:
        insecure: Take clear text to other machines too.

    Raises:
        WebAddressRefused: naming the URL and what is allowed. What it may hold of a credential is not repeated.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise WebAddressRefused(f"{url[:80]!r} is no URL; https://host[:port][/path] is") from None
    if parts.username is not None or parts.password is not None:
        raise WebAddressRefused("the URL holds a user or a password; keep credentials in a file and name it")
    if len(url) > LENGTH_MAX or not url.isprintable() or not host or " " in url or parts.query or parts.fragment:
        raise WebAddressRefused(
            f"{url[:80]!r} is no base URL; https://host[:port][/path] of at most {LENGTH_MAX} characters is"
        )
    if parts.scheme != "https" and not (parts.scheme == "http" and (insecure or is_loopback(host))):
        raise WebAddressRefused(f"{url[:80]!r} would be sent to in clear text; use https://")
    return url.rstrip("/")
