"""From a kick-off request to a stored job."""
