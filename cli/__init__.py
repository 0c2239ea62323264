"""The `modelyard` command: a person's view of the platform, on the client library alone where a platform runs."""
