"""Mechanisms every service uses, and the pure values their rules are written in."""

import os

# Where gRPC prepares for forks, a child of a process that uses it crashes now and then before it becomes the program it
# was started for (grpc/grpc#43055); no process here forks to go on in Python. gRPC looks when it is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
