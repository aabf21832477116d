"""Searches about every parameter of a type, with values out of the data."""

import msgspec

from helios_core.errors import InvalidParameter
from helios_core.fhir.search import any_filter, compile_query
from helios_core.fhir.search.dates import interval
from helios_core.fhir.search.parameters import CompiledParameter, compiled_parameters
from helios_core.fhir.search.references import reference_of
from helios_core.fhir.search.tokens import codings

PREFIXES = ("", "eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap")


def escaped(text):
    return "".join(f"\\{each}" if each in "\\,|$" else each for each in text)


def texts(parameter, leaf, chance):
    """Values by which a search may find a leaf."""
    match parameter.type:
        case "token":
            for system, code in codings(leaf):
                yield escaped(code)
                if system:
                    yield f"{escaped(system)}|{escaped(code)}"
        case "reference":
            reference = reference_of(leaf)
            if reference:
                yield escaped(reference)
                yield escaped(reference.rpartition("/")[2])
        case "date":
            if interval(leaf) is not None:
                dates = [leaf] if isinstance(leaf, str) else [*leaf.values()]
                yield from (
                    chance.choice(PREFIXES) + each for each in dates if isinstance(each, str)
                )
        case _:
            if isinstance(leaf, str | int | float):
                yield escaped(str(leaf))


def walked(finders, node):
    leaves = []
    for finder in finders:
        finder.walk(node, leaves)
    return leaves


def combined(composed, tree, chance):
    """Values by which a search may find the items of a composite."""
    for item in walked([composed.base], tree):
        parts = [
            [
                text
                for leaf in walked(part.finders, tree if part.rooted else item)
                for text in texts(part, leaf, chance)
            ]
            for part in composed.parts
        ]
        if all(parts):
            yield "$".join(chance.choice(part) for part in parts)


def drawn(parameter, trees, chance):
    """A few values of a parameter, out of the data."""
    leaves = [leaf for tree in trees for leaf in walked(parameter.finders, tree)]
    found = {text for leaf in leaves for text in texts(parameter, leaf, chance) if text}
    for composed in parameter.composed:
        found |= {text for tree in trees for text in combined(composed, tree, chance)}
    found = sorted(found)
    return chance.sample(found, min(2, len(found)))


def searches(version, resource_type, lines, chance, *, leaving_out=()):
    """Filters about each parameter of a type, and mixtures of them."""
    trees = [msgspec.json.decode(line) for line in lines]
    pairs = []
    for parameter in compiled_parameters(version, resource_type).values():
        if isinstance(parameter, CompiledParameter) and parameter.code not in leaving_out:
            values = drawn(parameter, trees, chance)
            pairs += [(parameter.code, value) for value in values]
            if len(values) > 1:
                pairs.append((parameter.code, ",".join(values)))
    alone = [one for pair in pairs if (one := compiled(version, resource_type, [pair]))]
    both = [
        one
        for _ in range(len(pairs) // 4)
        if (one := compiled(version, resource_type, chance.sample(pairs, 2)))
    ]
    either = [any_filter(chance.sample(alone, 2)) for _ in range(len(alone) // 4)]
    return [*alone, *both, *either]


def compiled(version, resource_type, pairs):
    try:
        return compile_query(version, resource_type, pairs)
    except InvalidParameter:
        return None  # example data has codes and dates that no search can name
