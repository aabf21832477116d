import json

from helios_core.fhir.outcomes import outcome_line


def test_an_outcome_is_one_compact_line():
    line = outcome_line("error", "not-found", 'No "Group"\nof that id: ü')

    assert b"\n" not in line
    assert line.startswith(b'{"resourceType":"OperationOutcome","issue":[{"severity":"error",')
    assert json.loads(line)["issue"] == [
        {"severity": "error", "code": "not-found", "diagnostics": 'No "Group"\nof that id: ü'}
    ]
