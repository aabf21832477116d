"""What an export is: the request, its job, its parts, and the proof that nothing is missing."""
