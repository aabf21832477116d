"""The processes: the server and its workers."""
