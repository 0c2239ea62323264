"""Tables, queries and migrations of billing."""
