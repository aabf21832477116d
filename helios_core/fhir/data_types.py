"""The FHIR data types that a choice element can have."""

DATA_TYPES = (
    "Address",
    "Age",
    "Annotation",
    "Attachment",
    "CodeableConcept",
    "CodeableReference",
    "Coding",
    "ContactDetail",
    "ContactPoint",
    "Count",
    "DataRequirement",
    "Distance",
    "Dosage",
    "Duration",
    "Expression",
    "HumanName",
    "Identifier",
    "Meta",
    "Money",
    "ParameterDefinition",
    "Period",
    "Quantity",
    "Range",
    "Ratio",
    "RatioRange",
    "Reference",
    "RelatedArtifact",
    "SampledData",
    "Signature",
    "Timing",
    "TriggerDefinition",
    "UsageContext",
    "base64Binary",
    "boolean",
    "canonical",
    "code",
    "date",
    "dateTime",
    "decimal",
    "id",
    "instant",
    "integer",
    "integer64",
    "markdown",
    "oid",
    "positiveInt",
    "string",
    "time",
    "unsignedInt",
    "uri",
    "url",
    "uuid",
)


def choice_suffix(data_type: str) -> str:
    """Return the ending of the JSON name of a choice element: `DateTime` for `dateTime`."""
    return data_type[:1].upper() + data_type[1:]


CHOICE_SUFFIXES = frozenset(map(choice_suffix, DATA_TYPES))
"""All possible endings of the JSON name of a choice element."""


def is_data_type(name: str) -> bool:
    """Return whether the name of a type is that of a data type, not of a resource type."""
    return choice_suffix(name) in CHOICE_SUFFIXES
