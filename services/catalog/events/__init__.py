"""What the catalog publishes."""
