"""Rules of projects, endpoints, deployments and instances; no I/O."""
