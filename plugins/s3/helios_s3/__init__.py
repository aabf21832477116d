"""Export output as objects in an S3 bucket."""
