"""Rules of addresses, requests and billed quantities; no I/O."""
