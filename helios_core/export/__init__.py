"""What happens to an export, from the kick-off to the removal of its files."""
