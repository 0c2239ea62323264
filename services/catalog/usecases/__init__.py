"""One function an intention."""
