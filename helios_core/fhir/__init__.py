"""What FHIR itself says: versions, resources, references, compartments, instants, Bundles."""
