"""Base URLs that an operator sets."""

from __future__ import annotations

import pytest

from chassis.web_address import WebAddressRefused, check_base_url


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("https://api.openai.com/v1", "https://api.openai.com/v1"),
        ("https://name.openai.azure.com/", "https://name.openai.azure.com"),
        ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000/v1"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("http://localhost/v1", "http://localhost/v1"),
    ],
)
def test_encrypted_addresses_and_those_of_this_machine_are_taken(url: str, base: str) -> None:
    assert check_base_url(url) == base


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://api.example/v1", "clear text; use https"),
        ("http://169.254.169.254/latest", "clear text; use https"),
        ("http://127.0.0.1.example/v1", "clear text; use https"),
        ("ftp://api.example", "clear text; use https"),
        ("https://user:pass@api.example", "keep credentials in a file"),
        ("https://api.example/v1?key=1", "is no base URL"),
        ("https://api.example/v1#x", "is no base URL"),
        ("https://api example", "is no base URL"),
        ("https://api.example/\r\nx: y", "is no"),
        ("https://", "is no base URL"),
        ("api.example", "is no base URL"),
        ("https://[::1", "is no URL"),
        ("https://api.example:port", "is no URL"),
        ("https://api.example/" + "x" * 500, "at most 512 characters"),
    ],
)
def test_anything_else_is_refused(url: str, message: str) -> None:
    with pytest.raises(WebAddressRefused, match=message) as refused:
        check_base_url(url)
    assert "pass" not in str(refused.value).removeprefix("the URL holds a user or a password")


def test_clear_text_beyond_this_machine_is_a_decision() -> None:
    assert check_base_url("http://vllm.cluster.local:8000/v1", insecure=True) == "http://vllm.cluster.local:8000/v1"
