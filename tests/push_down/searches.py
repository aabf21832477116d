"""Searches by every parameter of a type, with values from the data."""

import msgspec

from helios_core.errors import InvalidParameter
from helios_core.fhir.search import any_filter, compile_query
from helios_core.fhir.search.dates import interval
from helios_core.fhir.search.parameters import CompiledParameter, compiled_parameters
from helios_core.fhir.search.references import reference_text
from helios_core.fhir.search.tokens import codings

PREFIXES = ("", "eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap")


def escaped(text):
    return "".join(f"\\{character}" if character in "\\,|$" else character for character in text)


def texts(parameter, leaf, chance):
    """Search values that a leaf can match."""
    match parameter.type:
        case "token":
            for system, code in codings(leaf):
                yield escaped(code)
                if system:
                    yield f"{escaped(system)}|{escaped(code)}"
        case "reference":
            reference = reference_text(leaf)
            if reference:
                yield escaped(reference)
                yield escaped(reference.rpartition("/")[2])
        case "date":
            if interval(leaf) is not None:
                dates = [leaf] if isinstance(leaf, str) else [*leaf.values()]
                yield from (
                    chance.choice(PREFIXES) + date for date in dates if isinstance(date, str)
                )
        case _:
            if isinstance(leaf, str | int | float):
                yield escaped(str(leaf))


def collected(paths, node):
    leaves = []
    for path in paths:
        path.collect(node, leaves)
    return leaves


def combinations(composite, tree, chance):
    """Search values that the items of a composite can match."""
    for item in collected([composite.base], tree):
        parts = [
            [
                text
                for leaf in collected(part.paths, tree if part.rooted else item)
                for text in texts(part, leaf, chance)
            ]
            for part in composite.parts
        ]
        if all(parts):
            yield "$".join(chance.choice(part) for part in parts)


def drawn(parameter, trees, chance):
    """At most two search values of a parameter, from the data."""
    leaves = [leaf for tree in trees for leaf in collected(parameter.paths, tree)]
    values = {text for leaf in leaves for text in texts(parameter, leaf, chance) if text}
    for composite in parameter.composite_paths:
        values |= {text for tree in trees for text in combinations(composite, tree, chance)}
    return chance.sample(sorted(values), min(2, len(values)))


def searches(version, resource_type, lines, chance, *, without=()):
    """Filters by each parameter of a type, and combinations of them."""
    trees = [msgspec.json.decode(line) for line in lines]
    pairs = []
    for parameter in compiled_parameters(version, resource_type).values():
        if isinstance(parameter, CompiledParameter) and parameter.code not in without:
            values = drawn(parameter, trees, chance)
            pairs += [(parameter.code, value) for value in values]
            if len(values) > 1:
                pairs.append((parameter.code, ",".join(values)))
    single = [filter_ for pair in pairs if (filter_ := compiled(version, resource_type, [pair]))]
    both = [
        filter_
        for _ in range(len(pairs) // 4)
        if (filter_ := compiled(version, resource_type, chance.sample(pairs, 2)))
    ]
    either = [any_filter(chance.sample(single, 2)) for _ in range(len(single) // 4)]
    return [*single, *both, *either]


def compiled(version, resource_type, pairs):
    try:
        return compile_query(version, resource_type, pairs)
    except InvalidParameter:
        return None  # example data has codes and dates that are not valid in a search
