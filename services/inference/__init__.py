"""Inference: access, routes, calls to models, and the usage journal. See README.md."""
