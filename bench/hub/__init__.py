"""A hub's worth of made-up models."""
