"""Rules of stages and identifiers; no I/O."""
