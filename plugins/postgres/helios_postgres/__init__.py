"""Resources and job state in PostgreSQL: one database, any number of machines."""
