"""The routes of Bulk Data Export."""
