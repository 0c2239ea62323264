"""A card of any origin is shown without being able to do anything."""

from __future__ import annotations

import pytest

from services.catalog.domain.cards import card_html, card_text


@pytest.mark.parametrize(
    "hostile",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "![pixel](https://spy.example/pixel.png)",
        "[click](javascript:alert(1))",
        "<a href='data:text/html,<script>alert(1)</script>'>x</a>",
        "<iframe src='https://spy.example'></iframe>",
        "<style>body { display: none }</style>",
        "<form action='https://spy.example'><input name=key></form>",
        "<svg><script>alert(1)</script></svg>",
        "<b onclick=alert(1)>bold</b>",
        "<div style='position:fixed'>over everything</div>",
    ],
)
def test_what_could_do_something_is_gone(hostile: str) -> None:
    """Scripts, handlers, styles, forms, frames, images and strange links, however they are written."""
    shown = card_html(f"# Title\n\n{hostile}\n\nText")
    for part in (
        "<script",
        "onerror",
        "onclick",
        'href="javascript',
        'href="data',
        "<i",
        "style",
        "<form",
        "spy.example/p",
    ):
        assert part not in shown
    assert "<h1>Title</h1>" in shown
    assert "Text" in shown


def test_what_a_card_needs_stays() -> None:
    """Headings, lists, code and tables; links say that they vouch for nothing."""
    shown = card_html("## A\n\n- b\n\n`c`\n\n| d | e |\n|---|--:|\n| 1 | 2 |\n\n[f](https://example.com)")
    for part in ("<h2>A</h2>", "<li>b</li>", "<code>c</code>", "<table>", "<td>1</td>"):
        assert part in shown
    assert '<a href="https://example.com" rel="noopener noreferrer nofollow">f</a>' in shown


def test_a_terminal_gets_no_control_characters() -> None:
    """Neither escape sequences nor what moves the cursor; words, lines and tabs stay."""
    assert card_text("# T\x1b[2J\x1b]8;;evil\x07\r\n\ttext é 漢\x00") == "# T[2J]8;;evil\n\ttext é 漢"
