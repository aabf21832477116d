"""The command line: what the operator types."""
