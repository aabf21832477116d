"""What FHIR's REST interactions do, whatever carries them."""
