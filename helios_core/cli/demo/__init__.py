"""The command `helios demo`."""
