"""The fields of the index.

No word field holds positions or counts: whether a word is there decides, not where or how often. Facets and numbers are
columns beside them. Nothing is stored but the name by which the database is asked.
"""

from __future__ import annotations

import tantivy

from services.catalog.domain.search import FACETS, FacetKind
from services.catalog.domain.words import WORD_OF_ENGINE

# Another number makes every replica build its index anew; it is part of the folder's name.
SCHEMA_VERSION = 5

# Resource name of a model; the key of its document.
NAME = "name"
# Uid of the project it belongs to; PUBLIC where everybody sees it.
PROJECT = "project"
PUBLIC = "public"
# Value of a text facet that a model has none of, so that one pass counts those too; no filter can name it.
NO_VALUE = ""
# Words by where they stand, each field with all words of the one before: the narrower, the better the match.
NAME_WORDS = "name_words"
TITLE_WORDS = "title_words"
LABEL_WORDS = "label_words"
TEXT_WORDS = "text_words"
# The words that a name begins with, as one term for each number of them up to OPENING_WORDS. Hardly two names begin
# with more in common: whoever asks for more words finds them by the words alone.
OPENINGS = "openings"
OPENING_WORDS = 4
# How many telling words its id, its display name, and publisher and id together have.
ID_LENGTH = "id_length"
DISPLAY_LENGTH = "display_length"
TITLE_LENGTH = "title_length"
# Which of two comes first where both match alike, higher first: among all, and among those that match words.
STANDING = "standing"
CLOSENESS = "closeness"
# Stages of the newest version: its preview flag, the days its stages begin, and the stage that was announced.
PREVIEW = "preview"
LEGACY_DAY = "legacy_day"
DEPRECATION_DAY = "deprecation_day"
RETIREMENT_DAY = "retirement_day"
ANNOUNCED = "announced"
# One document more says up to which change of which database the index goes.
POSITION = "position"
ORIGIN = "origin"
POSITION_KEY = "//position"
NEVER = 10_000_000  # a day after the last one that a date can name

# Long texts are cut into words by the engine, which does it on a thread of its own; a word longer than this is none.
TEXT_TOKENIZER, _WORD_LENGTH_MAX = "text", 100
_WORDS = {NAME_WORDS: "whitespace", TITLE_WORDS: "whitespace", LABEL_WORDS: "whitespace", TEXT_WORDS: TEXT_TOKENIZER}
_NUMBERS = (ID_LENGTH, DISPLAY_LENGTH, TITLE_LENGTH, STANDING, CLOSENESS)
# Few models have one of these within a range that is asked for, so they are looked up and not read through.
_SELDOM = (PREVIEW, LEGACY_DAY, DEPRECATION_DAY, RETIREMENT_DAY, ANNOUNCED)


def build_schema() -> tantivy.Schema:
    """The schema; change SCHEMA_VERSION with it."""
    builder = tantivy.SchemaBuilder()
    builder.add_text_field(NAME, stored=True, tokenizer_name="raw", index_option="basic")
    builder.add_text_field(PROJECT, tokenizer_name="raw", index_option="basic")
    builder.add_text_field(OPENINGS, tokenizer_name="raw", index_option="basic")
    builder.add_integer_field(POSITION, stored=True)
    builder.add_text_field(ORIGIN, stored=True, tokenizer_name="raw", index_option="basic")
    for field, tokenizer in _WORDS.items():
        builder.add_text_field(field, tokenizer_name=tokenizer, index_option="basic")
    for field in _NUMBERS:
        builder.add_integer_field(field, fast=True)
    for field in _SELDOM:
        builder.add_integer_field(field, indexed=True)
    for facet in FACETS.values():
        if facet.kind is FacetKind.TEXT:
            builder.add_text_field(facet.name, fast=True, tokenizer_name="raw", index_option="basic")
        elif facet.is_number:
            builder.add_integer_field(facet.name, fast=True)
    return builder.build()


def text_analyzer() -> tantivy.TextAnalyzer:
    """Cuts plain texts into the words that `words_of` finds in them."""
    words = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.regex(WORD_OF_ENGINE))
    return words.filter(tantivy.Filter.remove_long(_WORD_LENGTH_MAX)).build()
