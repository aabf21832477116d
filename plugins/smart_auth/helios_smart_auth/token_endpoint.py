"""The token endpoint, independent of the web framework (RFC 6749, RFC 7523, SMART)."""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
import structlog

from helios_core import in_thread
from helios_smart_auth.access_tokens import Issuer
from helios_smart_auth.assertions import Assertions, Rejected
from helios_smart_auth.scopes import granted

log = structlog.stdlib.get_logger()

FORM: Final = "application/x-www-form-urlencoded"
GRANT: Final = "client_credentials"
ASSERTION: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
MAX_BYTES: Final = 64 * 1024
"""The longest request body that is read; real ones have less than 4 KB."""
MOST_FIELDS: Final = 50

_ONCE = ("grant_type", "scope", "client_assertion_type", "client_assertion", "client_id")


class Refusal(Exception):
    """
    A request gets an error response (RFC 6749, section 5.2).

    `client_id` is the registered client that the assertion names, if it names one.
    """

    def __init__(self, error: str, description: str, client_id: str | None = None) -> None:
        super().__init__(description)
        self.error = error
        self.description = description
        self.client_id = client_id


class TokenRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request as far as the token endpoint reads it."""

    content_type: str
    authorization: str
    body: bytes


class TokenEndpoint:
    """
    Responds to token requests.

    Requests are checked in this order (TR-72): form, grant type, assertion type, assertion,
    scopes. The first error is the response.
    """

    def __init__(self, assertions: Assertions, issuer: Issuer) -> None:
        self._assertions = assertions
        self._issuer = issuer

    async def respond(
        self, request: TokenRequest, *, issuer: str, token_url: str
    ) -> tuple[int, Mapping[str, Any]]:
        """
        Return the status and the body of the response.

        Raises:
            BackendUnavailable: The job store cannot respond now.
        """
        try:
            return 200, await self._respond(request, issuer, token_url)
        except Refusal as refusal:
            log.info(
                "grant.refused",
                error=refusal.error,
                reason=refusal.description,
                claimed_client=refusal.client_id,
            )
            return 400, {"error": refusal.error, "error_description": refusal.description}

    async def _respond(
        self, request: TokenRequest, issuer: str, token_url: str
    ) -> Mapping[str, Any]:
        form = _form(request)
        _check_grant(form)
        _check_authentication(form, request.authorization)
        try:
            client = await self._assertions.authenticate(form["client_assertion"], token_url)
        except Rejected as rejected:
            raise Refusal("invalid_client", str(rejected), rejected.client_id) from None
        if form.get("client_id", client.id) != client.id:
            raise Refusal(
                "invalid_client", "client_id is not the client of the assertion", client.id
            )
        try:
            # Many scopes of a request with many of a client take a while.
            scopes = await in_thread(granted, form.get("scope", ""), client.scopes)
        except ValueError as error:
            raise Refusal("invalid_scope", str(error), client.id) from None
        if not scopes:
            raise Refusal(
                "invalid_scope",
                "scope names nothing that is registered for the client; send scopes such as"
                " system/Patient.rs, separated by spaces",
                client.id,
            )
        token = await self._issuer.issue(client, scopes, issuer)
        log.info("token.issued", client=client.id)
        return {
            "access_token": token,
            "token_type": "bearer",
            "expires_in": self._issuer.valid_for,
            "scope": " ".join(scopes),
        }


def _form(request: TokenRequest) -> Mapping[str, str]:
    if request.content_type.partition(";")[0].strip().lower() != FORM:
        raise Refusal("invalid_request", f"the body is not {FORM}")
    if len(request.body) > MAX_BYTES:
        raise Refusal("invalid_request", f"the body has more than {MAX_BYTES} bytes")
    try:
        pairs = parse_qsl(
            request.body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(request.body),
            errors="strict",
            max_num_fields=MOST_FIELDS,
        )
    except ValueError:
        raise Refusal("invalid_request", "the body cannot be read as a form") from None
    names = [name for name, _ in pairs]
    for name in _ONCE:
        if names.count(name) > 1:
            raise Refusal("invalid_request", f"{name} is sent more than once")
    # A parameter without a value counts as omitted (RFC 6749, section 3.2).
    return {name: value for name, value in pairs if value}


def _check_grant(form: Mapping[str, str]) -> None:
    if "grant_type" not in form:
        raise Refusal("invalid_request", f"grant_type is missing; send {GRANT}")
    if form["grant_type"] != GRANT:
        raise Refusal("unsupported_grant_type", f"grant_type is not {GRANT}")


def _check_authentication(form: Mapping[str, str], authorization: str) -> None:
    if authorization or "client_secret" in form:
        raise Refusal(
            "invalid_request",
            "a client authenticates by its assertion only; send no Authorization and no secret",
        )
    if "client_assertion_type" not in form:
        raise Refusal("invalid_request", f"client_assertion_type is missing; send {ASSERTION}")
    if form["client_assertion_type"] != ASSERTION:
        raise Refusal("invalid_client", f"client_assertion_type is not {ASSERTION}")
    if "client_assertion" not in form:
        raise Refusal("invalid_client", "client_assertion is missing")
