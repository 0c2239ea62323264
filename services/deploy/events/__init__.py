"""What deploy publishes and consumes."""
