"""What is on the wire; nothing outside this package imports Litestar."""
