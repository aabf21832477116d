"""The command `helios clients`: who may ask for tokens, and the keys that sign them."""

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from helios_core import CommandHost
from helios_smart_auth.addresses import check_url
from helios_smart_auth.clients import CLIENT_ID, Client, Clients, records_of
from helios_smart_auth.public_keys import parse_key_set, registrable
from helios_smart_auth.scopes import parse_scope
from helios_smart_auth.signing_keys import Ring, SigningKeys

LARGEST_FILE = 256 * 1024

_jwks = click.option(
    "--jwks",
    "jwks",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="File with the client's public keys: a JWK set or one JWK.",
)
_jwks_urls = click.option(
    "--jwks-url",
    "jwks_urls",
    multiple=True,
    help="Address of the client's key set; may be repeated.",
)


def clients_command(host: CommandHost) -> click.Group:
    """Return the command."""

    @click.group(name="clients")
    def clients() -> None:
        """Manage who may ask for access tokens; no server needs to run."""

    @clients.command()
    @click.argument("client")
    @_jwks
    @_jwks_urls
    @click.option(
        "--scope",
        "scopes",
        multiple=True,
        required=True,
        help="Scopes that it may ask for, such as 'system/*.rs'; may be repeated.",
    )
    @click.option("--tenant", help="The tenant of its tokens; without, they name none.")
    @click.option(
        "--group",
        "groups",
        multiple=True,
        help="Id of a group that it may export; may be repeated. Without, it may export every "
        "group.",
    )
    def add(
        client: str,
        jwks: Path | None,
        jwks_urls: tuple[str, ...],
        scopes: tuple[str, ...],
        tenant: str | None,
        groups: tuple[str, ...],
    ) -> None:
        """Register CLIENT with its public keys and scopes."""
        if not CLIENT_ID.fullmatch(client):
            raise click.BadParameter(
                "a client id is 1 to 100 letters, digits, '.', '_', '~' and '-', and begins with "
                "a letter or digit"
            )
        new = Client(
            id=client,
            scopes=_checked_scopes(scopes),
            tenant=tenant,
            groups=groups or None,
            **_keys(host, jwks, jwks_urls),
        )
        if not _run(host, lambda them: them.add(new)):
            raise click.ClickException(
                f"client {client} is registered already; use `helios clients rotate` to replace "
                "its keys, or remove it first"
            )
        click.echo(f"registered {client}")

    @clients.command(name="list")
    def list_() -> None:
        """List all clients."""
        found = _run(host, _all)
        if not found:
            click.echo("no clients are registered; see `helios clients add --help`")
        for client in found:
            click.echo(_line(client))

    @clients.command()
    @click.argument("client")
    def show(client: str) -> None:
        """Print what is registered for CLIENT, as JSON."""
        found = _known(client, _run(host, lambda them: them.get(client)))
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())

    @clients.command()
    @click.argument("client")
    def disable(client: str) -> None:
        """Refuse CLIENT from now on; its tokens are invalid within seconds."""
        _change(host, client, lambda found: msgspec.structs.replace(found, disabled=True))
        click.echo(f"disabled {client}")

    @clients.command()
    @click.argument("client")
    def enable(client: str) -> None:
        """Let a disabled CLIENT in again."""
        _change(host, client, lambda found: msgspec.structs.replace(found, disabled=False))
        click.echo(f"enabled {client}")

    @clients.command()
    @click.argument("client")
    @_jwks
    @_jwks_urls
    def rotate(client: str, jwks: Path | None, jwks_urls: tuple[str, ...]) -> None:
        """Replace the public keys of CLIENT."""
        new = _keys(host, jwks, jwks_urls)
        _change(host, client, lambda found: msgspec.structs.replace(found, **new))
        click.echo(f"replaced the keys of {client}")

    @clients.command()
    @click.argument("client")
    def remove(client: str) -> None:
        """Forget CLIENT; its tokens are invalid within seconds."""
        if not _run(host, lambda them: them.remove(client)):
            _known(client, None)
        click.echo(f"removed {client}")

    clients.add_command(_keys_command(host))
    return clients


def _keys_command(host: CommandHost) -> click.Group:
    @click.group()
    def keys() -> None:
        """Manage the keys with which this server signs access tokens."""

    @keys.command(name="list")
    def list_() -> None:
        """List the keys that are published."""
        for line in _key_lines(_run_keys(host, lambda them: them.ring())):
            click.echo(line)

    @keys.command()
    @click.option(
        "--revoke",
        is_flag=True,
        help="Make every token invalid that was issued so far, within seconds.",
    )
    def rotate(*, revoke: bool) -> None:
        """Sign with a new key from now on; tokens of the old one stay valid until they expire."""
        for line in _key_lines(_run_keys(host, lambda them: them.rotate(revoke=revoke))):
            click.echo(line)

    return keys


async def _all(clients: Clients) -> list[Client]:
    return [client async for client in clients.all()]


def _run(host: CommandHost, work: Callable[[Clients], Coroutine[Any, Any, Any]]) -> Any:  # noqa: ANN401
    async def run() -> Any:  # noqa: ANN401  whatever the work returns
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


def _change(host: CommandHost, client: str, change: Callable[[Client], Client]) -> None:
    _known(client, _run(host, lambda them: them.change(client, change)))


def _known(client_id: str, client: Client | None) -> Client:
    if client is None:
        raise click.ClickException(
            f"there is no client {client_id}; `helios clients list` shows those that are registered"
        )
    return client


def _keys(host: CommandHost, jwks: Path | None, jwks_urls: Sequence[str]) -> Mapping[str, Any]:
    """Return the fields of a client that say where its keys are."""
    if (jwks is None) == (not jwks_urls):
        raise click.UsageError("name the client's keys by either --jwks or --jwks-url")
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
        if len(text) > LARGEST_FILE:
            raise ValueError(f"it has more than {LARGEST_FILE} bytes")
        return tuple(map(dict, registrable(parse_key_set(text))))
    except OSError as error:
        raise click.BadParameter(f"{path} cannot be read: {type(error).__name__}") from None
    except ValueError as error:
        raise click.BadParameter(f"{path} has no usable keys: {error}") from None


def _checked_scopes(values: Sequence[str]) -> tuple[str, ...]:
    words = dict.fromkeys(word for value in values for word in value.split())
    for word in words:
        if parse_scope(word) is None:
            raise click.BadParameter(
                f"{word!r} is not a scope of a backend service; these are such as system/*.rs, "
                "system/Patient.read or system/Observation.rs?category=laboratory"
            )
    if not words:
        raise click.BadParameter("there is no scope")
    return tuple(words)


def _line(client: Client) -> str:
    keys = f"{len(client.keys)} keys" if client.keys else f"{len(client.jwks_urls)} key URLs"
    parts = [client.id, "disabled" if client.disabled else "enabled", keys]
    if client.tenant is not None:
        parts.append(f"tenant {client.tenant}")
    if client.groups is not None:
        parts.append(f"groups {','.join(client.groups)}")
    return "  ".join([*parts, " ".join(client.scopes)])


def _key_lines(ring: Ring) -> list[str]:
    return [
        f"{key.kid}  made {_instant(key.created_at)}  "
        + ("signs" if key.retired_at is None else f"retired {_instant(key.retired_at)}")
        for key in ring.keys
    ]


def _instant(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
