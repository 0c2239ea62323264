"""One call, from admission to its usage record."""
