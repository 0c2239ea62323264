"""What billing publishes and consumes."""
