"""Cards as they are shown: Markdown of any origin becomes HTML that can do nothing."""

from __future__ import annotations

import nh3
from markdown_it import MarkdownIt

_TAGS = {
    "a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "s",
    "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
# Raw HTML inside Markdown is parsed and cleaned, not shown as text: published cards use it for tables and breaks.
_MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def card_html(markdown: str) -> str:
    """Markdown as HTML without scripts, styles, forms, frames and images, which would tell others who reads.

    Links lead to http, https and mail only, and carry `rel="noopener noreferrer nofollow"`.
    """
    return nh3.clean(
        _MARKDOWN.render(markdown),
        tags=_TAGS,
        attributes={"a": {"href", "title"}, "td": {"align"}, "th": {"align"}, "ol": {"start"}},
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
    )


def card_text(markdown: str) -> str:
    """Markdown for a terminal: without control characters, which could move the cursor or change what was printed."""
    return "".join(character for character in markdown if character.isprintable() or character in "\n\t")
