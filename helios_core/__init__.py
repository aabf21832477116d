"""Helios: a FHIR Bulk Data Export server in which every backend is a plugin."""
