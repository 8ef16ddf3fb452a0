"""How a command ends: its exit codes."""

DONE = 0
USAGE = 2
"""Nothing was done: what was asked for cannot be."""
SOME_FAILED = 3
INTERRUPTED = 75
"""The same command goes on."""
