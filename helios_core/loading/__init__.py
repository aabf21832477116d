"""Loading files of resources into a data provider."""
