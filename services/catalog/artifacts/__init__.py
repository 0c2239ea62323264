"""Where the bytes of artifacts lie, and what is checked before they are trusted."""
