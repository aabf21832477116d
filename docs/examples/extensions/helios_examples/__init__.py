"""One extension of Helios of every kind, each in one file."""
