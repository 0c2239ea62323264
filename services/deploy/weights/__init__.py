"""Files that instances need, on this machine and checked."""
