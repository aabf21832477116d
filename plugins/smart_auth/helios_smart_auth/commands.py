"""The command `helios clients`: registered clients, and the keys that sign their tokens."""

import re
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from helios_core import CommandHost, RequestError, Scope, parse_scope
from helios_core.fhir import FHIRVersion, compile_query, load_definitions
from helios_smart_auth.addresses import check_url
from helios_smart_auth.clients import CLIENT_ID, Client, Clients, records_of
from helios_smart_auth.public_keys import parse_keys, registrable
from helios_smart_auth.signing_keys import Ring, SigningKeys

LARGEST_FILE = 256 * 1024
LONGEST_GROUPS = 4 * 1024
"""How many characters the ids of a client's groups may have together: its tokens have them all."""
GROUP = re.compile(r"[A-Za-z0-9.-]{1,64}")
"""What the id of a resource looks like (FHIR R4, datatypes.html#id)."""
TENANT = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""The form of a tenant id, as the server accepts it."""

_jwks = click.option(
    "--jwks",
    "jwks",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="File with the client's public keys: a JWK set, one JWK, or PEM. The kid of a PEM key is "
    "its thumbprint (RFC 7638).",
)
_jwks_urls = click.option(
    "--jwks-url",
    "jwks_urls",
    multiple=True,
    help="URL of the client's key set; may be repeated.",
)


@click.command()
@click.argument("client")
@_jwks
@_jwks_urls
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    help="Scopes that it may request, such as 'system/*.rs'; may be repeated.",
)
@click.option("--tenant", help="The tenant of its tokens.")
@click.option(
    "--group",
    "groups",
    multiple=True,
    help="Id of a group that it may export; may be repeated. The client can then export these "
    "groups and do nothing else: no other export, no reads, searches or changes over REST. "
    "Without --group only its scopes limit it.",
)
@click.pass_obj
def add(host: CommandHost, /, client: str, **fields: Any) -> None:  # noqa: ANN401  see the options
    """Register CLIENT with its public keys and scopes."""
    if not CLIENT_ID.fullmatch(client):
        raise click.BadParameter(
            "a client id is 1 to 100 letters, digits, '.', '_', '~' and '-', and begins with a "
            "letter or digit"
        )
    if fields["tenant"] is not None and not TENANT.fullmatch(fields["tenant"]):
        raise click.BadParameter(
            "a tenant id is 1 to 64 letters, digits, '.', '_' and '-', begins with a letter or "
            "digit and has no '..'"
        )
    new = Client(
        id=client,
        scopes=_checked_scopes(fields["scopes"]),
        tenant=fields["tenant"],
        groups=_checked_groups(fields["groups"]) or None,
        **_keys(host, fields["jwks"], fields["jwks_urls"]),
    )
    if not _run(host, lambda clients: clients.add(new)):
        raise click.ClickException(
            f"client {client} is already registered; use `helios clients rotate` to replace its "
            "keys, or remove it first"
        )
    click.echo(f"registered {client}")


@click.command(name="list")
@click.pass_obj
def list_(host: CommandHost) -> None:
    """List all clients."""
    clients = _run(host, _all)
    if not clients:
        click.echo("no clients are registered; see `helios clients add --help`")
        return
    headings = ("client", "state", "keys", "tenant", "groups", "scopes")
    host.print_table(headings, map(_cells, clients))


@click.command()
@click.argument("client")
@click.pass_obj
def show(host: CommandHost, client: str) -> None:
    """Print what is registered for CLIENT, as JSON."""
    stored = _known(client, _run(host, lambda clients: clients.get(client)))
    click.echo(msgspec.json.format(msgspec.json.encode(stored), indent=2).decode())


@click.command()
@click.argument("client")
@click.pass_obj
def disable(host: CommandHost, client: str) -> None:
    """Disable CLIENT; its tokens become invalid within seconds."""
    _change(host, client, disabled=True)
    click.echo(f"disabled {client}")


@click.command()
@click.argument("client")
@click.pass_obj
def enable(host: CommandHost, client: str) -> None:
    """Enable a disabled CLIENT."""
    _change(host, client, disabled=False)
    click.echo(f"enabled {client}")


@click.command()
@click.argument("client")
@_jwks
@_jwks_urls
@click.pass_obj
def rotate(host: CommandHost, client: str, jwks: Path | None, jwks_urls: tuple[str, ...]) -> None:
    """Replace the public keys of CLIENT."""
    _change(host, client, **_keys(host, jwks, jwks_urls))
    click.echo(f"replaced the keys of {client}")


@click.command()
@click.argument("client")
@click.pass_obj
def remove(host: CommandHost, client: str) -> None:
    """Remove CLIENT; its tokens become invalid within seconds."""
    if not _run(host, lambda clients: clients.remove(client)):
        _known(client, None)
    click.echo(f"removed {client}")


@click.command(name="list")
@click.pass_obj
def list_keys(host: CommandHost) -> None:
    """List the published keys."""
    _print_keys(host, _run_keys(host, lambda keys: keys.ring()))


@click.command(name="rotate")
@click.option(
    "--revoke",
    is_flag=True,
    help="Invalidate all tokens issued so far, within seconds.",
)
@click.pass_obj
def rotate_keys(host: CommandHost, *, revoke: bool) -> None:
    """
    Sign with a new key from now on.

    Tokens that were signed with the old key stay valid until they expire.
    """
    _print_keys(host, _run_keys(host, lambda keys: keys.rotate(revoke=revoke)))


def clients_command(host: CommandHost) -> click.Group:
    """Return the command group `helios clients`."""
    keys = click.Group(
        "keys",
        commands=[list_keys, rotate_keys],
        help="Manage the keys with which this server signs access tokens.",
    )
    return click.Group(
        "clients",
        commands=[add, list_, show, disable, enable, rotate, remove, keys],
        help="Manage the clients that may request access tokens.\n\nThe server need not run.",
        context_settings={"obj": host},
    )


async def _all(clients: Clients) -> list[Client]:
    return [client async for client in clients.all()]


def _run(host: CommandHost, work: Callable[[Clients], Coroutine[Any, Any, Any]]) -> Any:  # noqa: ANN401
    async def run() -> Any:  # noqa: ANN401  the result of work
        async with _records(host) as records:
            return await work(Clients(records))

    return host.run(run())


def _run_keys(host: CommandHost, work: Callable[[SigningKeys], Coroutine[Any, Any, Ring]]) -> Ring:
    async def run() -> Ring:
        async with _records(host) as records:
            return await work(SigningKeys(records))

    return host.run(run())


@asynccontextmanager
async def _records(host: CommandHost) -> AsyncIterator[Any]:
    async with host.open_backends() as backends:
        yield records_of(backends.job_store)


def _change(host: CommandHost, client: str, **fields: Any) -> None:  # noqa: ANN401
    def change(stored: Client) -> Client:
        return msgspec.structs.replace(stored, **fields)

    _known(client, _run(host, lambda clients: clients.change(client, change)))


def _known(client_id: str, client: Client | None) -> Client:
    if client is None:
        raise click.ClickException(
            f"there is no client {client_id}; `helios clients list` lists all clients"
        )
    return client


def _keys(host: CommandHost, jwks: Path | None, jwks_urls: Sequence[str]) -> Mapping[str, Any]:
    """Return the fields of a client that say where its keys are."""
    if (jwks is None) == (not jwks_urls):
        raise click.UsageError("give the client's keys with either --jwks or --jwks-url")
    if jwks is not None:
        return {"keys": _read_keys(jwks), "jwks_urls": ()}
    allowed = host.settings().jwks_allow_loopback_http
    for url in jwks_urls:
        try:
            check_url(url, allow_loopback_http=allowed)
        except ValueError as error:
            raise click.BadParameter(f"--jwks-url: {error}") from None
    return {"keys": (), "jwks_urls": tuple(dict.fromkeys(jwks_urls))}


def _read_keys(path: Path) -> tuple[dict[str, Any], ...]:
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise click.BadParameter(f"{path} cannot be read: {type(error).__name__}") from None
    if len(text) > LARGEST_FILE:
        raise click.BadParameter(f"{path} has more than {LARGEST_FILE} bytes")
    try:
        return tuple(map(dict, registrable(parse_keys(text))))
    except ValueError as error:
        raise click.BadParameter(f"{path} has no usable keys: {error}") from None


def _checked_scopes(values: Sequence[str]) -> tuple[str, ...]:
    words = dict.fromkeys(word for value in values for word in value.split())
    types = {"*"}.union(*(load_definitions(version).root_elements for version in FHIRVersion))
    for word in words:
        scope = parse_scope(word)
        if scope is None:
            raise click.BadParameter(
                f"{word!r} is not a scope of a backend service; examples are system/*.rs, "
                "system/Patient.read and system/Observation.rs?category=laboratory"
            )
        if scope.resource_type not in types:
            raise click.BadParameter(
                f"{word!r} grants nothing: no version of FHIR has the resource type "
                f"{scope.resource_type}"
            )
        if scope.resource_type != "*" and (problem := _problem_of_limit(scope)):
            raise click.BadParameter(f"{word!r} grants nothing: {problem}")
    if not words:
        raise click.BadParameter("--scope has no scope; an example is 'system/*.rs'")
    return tuple(words)


def _problem_of_limit(scope: Scope) -> str | None:
    """Return why no version of FHIR can evaluate the search of a scope; None if one can."""
    problem = None
    for version in FHIRVersion:
        if scope.resource_type not in load_definitions(version).root_elements:
            continue
        try:
            search = compile_query(version, scope.resource_type, scope.query)
        except RequestError as error:
            problem = problem or str(error)
        else:
            if not search.lookups:
                return None
            problem = problem or "its search depends on other resources"
    return problem


def _checked_groups(values: Sequence[str]) -> tuple[str, ...]:
    for group in values:
        if not GROUP.fullmatch(group):
            raise click.BadParameter(
                f"{group!r} is not the id of a group: 1 to 64 letters, digits, '-' and '.', "
                "without Group/ in front"
            )
    if sum(map(len, values)) > LONGEST_GROUPS:
        raise click.BadParameter(
            f"the ids of the groups have more than {LONGEST_GROUPS} characters together, for which"
            " a token has no room; register several clients"
        )
    return tuple(dict.fromkeys(values))


def _cells(client: Client) -> Sequence[str]:
    count = len(client.keys) or len(client.jwks_urls)
    kind = "key" if client.keys else "URL"
    return (
        client.id,
        "disabled" if client.disabled else "enabled",
        f"{count} {kind}{'' if count == 1 else 's'}",
        client.tenant or "",
        ",".join(client.groups or ()),
        " ".join(client.scopes),
    )


def _print_keys(host: CommandHost, ring: Ring) -> None:
    rows = (
        (key.kid, _instant(key.created_at), _instant(key.retired_at) if key.retired_at else "")
        for key in ring.keys
    )
    host.print_table(("key", "created", "retired"), rows)


def _instant(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
