"""What is configured, and what is installed."""
