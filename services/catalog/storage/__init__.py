"""Tables, queries and migrations of the catalog."""
