"""What runs: the server and its workers."""
