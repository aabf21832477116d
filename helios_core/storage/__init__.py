"""What a plugin implements, and what it may use to do so."""
