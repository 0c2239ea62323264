"""Tables, queries and migrations of deploy."""
