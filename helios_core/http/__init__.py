"""The HTTP doors of the server; nothing outside this package knows Litestar."""
