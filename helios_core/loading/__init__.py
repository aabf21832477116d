"""Loading files into a store."""
