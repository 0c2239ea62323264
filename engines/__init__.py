"""What runs inside Triton: one folder an engine, each with its model, its configuration and its README."""
