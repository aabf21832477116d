"""The routes of FHIR's REST interactions."""
