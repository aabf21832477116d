"""What FHIR's REST interactions do, independent of HTTP."""
