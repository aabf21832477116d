"""A client of any Bulk Data server."""
