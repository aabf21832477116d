"""Clients that ask for tokens: their keys, assertions and forms."""

import base64
import hashlib
import hmac
import json
import warnings
from urllib.parse import urlencode

from joserfc import jws
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, RSAKey

from helios_smart_auth.access_tokens import AccessTokens, Issuer
from helios_smart_auth.assertions import Assertions
from helios_smart_auth.clients import Client, Clients
from helios_smart_auth.key_sets import Unreadable
from helios_smart_auth.signing_keys import SigningKeys
from helios_smart_auth.token_endpoint import ASSERTION, FORM, TokenEndpoint, TokenRequest

BASE = "https://fhir.example/base"
TOKEN_URL = f"{BASE}/_plugins/smart_auth/token"
NOW = 1_800_000_000
SKEW = 10
JKU = "https://client.example/jwks.json"
OTHER_JKU = "https://client.example/other.json"


def ec_key(kid, curve="P-384", **more):
    return ECKey.generate_key(curve, {"kid": kid, **more}, private=True)


def rsa_key(kid, bits=2048, **more):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)
        return RSAKey.generate_key(bits, {"kid": kid, **more}, private=True)


def public(key, **more):
    return {**key.as_dict(private=False), "kid": key.kid, **more}


EC = ec_key("ec")
RSA = rsa_key("rsa")
STRANGER = ec_key("ec")


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def encoded(value):
    return base64url(value if isinstance(value, bytes) else json.dumps(value).encode())


def header(key=EC, **changes):
    algorithm = "ES384" if isinstance(key, ECKey) else "RS384"
    return without_none({"alg": algorithm, "kid": key.kid, "typ": "JWT"} | changes)


def claims(client="lab", **changes):
    named = {"iss": client, "sub": client, "aud": TOKEN_URL, "exp": NOW + 300, "jti": "one"}
    return without_none(named | changes)


def without_none(members):
    return {name: value for name, value in members.items() if value is not None}


def signed(key=EC, head=None, body=None):
    """Sign anything, also what no library would sign."""
    text = f"{encoded(head if head is not None else header(key))}.{encoded(body or claims())}"
    return f"{text}.{base64url(signature(key, text))}"


def signature(key, text):
    algorithm = "ES384" if isinstance(key, ECKey) else "RS384"
    return jws.JWSRegistry.algorithms[algorithm].sign(text.encode(), key)


def hmac_signed(secret, head, body):
    text = f"{encoded(head)}.{encoded(body)}"
    return f"{text}.{base64url(hmac.new(secret, text.encode(), hashlib.sha384).digest())}"


def form(assertion=None, **changes):
    fields = {
        "grant_type": "client_credentials",
        "scope": "system/*.rs",
        "client_assertion_type": ASSERTION,
        "client_assertion": assertion if assertion is not None else signed(),
    }
    return without_none(fields | changes)


def request(fields, *, content_type=FORM, authorization=""):
    body = fields if isinstance(fields, bytes) else urlencode(fields).encode()
    return TokenRequest(content_type=content_type, authorization=authorization, body=body)


class StaticKeySets:
    """Key sets by address, as if they had been read; an address without one is unreadable."""

    def __init__(self, sets):
        self.sets = sets

    async def read(self, url, *, again=False):
        if url not in self.sets:
            raise Unreadable("its server cannot be reached over TLS")
        return self.sets[url]


class Server:
    """A token endpoint and a verifier on one store, at an instant that stands still."""

    def __init__(self, store, *, sets=(), base_url=BASE, now=NOW):
        self.now = now
        self.clients = Clients(store)
        self.keys = SigningKeys(store, clock=self.clock)
        self.sets = StaticKeySets(dict(sets))
        assertions = Assertions(self.clients, self.sets, store, clock_skew=SKEW, clock=self.clock)
        self.issuer = Issuer(self.keys, valid_for=300, clock=self.clock)
        self.endpoint = TokenEndpoint(assertions, self.issuer)
        self.tokens = AccessTokens(self.keys, self.clients, base_url=base_url, clock=self.clock)

    def clock(self):
        return self.now

    async def register(self, client="lab", *, scopes=("system/*.rs",), keys=(EC, RSA), **more):
        stored = Client(
            id=client,
            scopes=tuple(scopes),
            keys=tuple(key if isinstance(key, dict) else public(key) for key in keys),
            **more,
        )
        assert await self.clients.add(stored)
        return stored

    async def post(self, fields, **more):
        return await self.endpoint.respond(
            request(fields, **more), issuer=BASE, token_url=TOKEN_URL
        )

    async def token(self, client="lab", **changes):
        body = claims(client, jti=f"{client}-{self.now}-{changes}")
        status, answer = await self.post(form(signed(body=body), **changes))
        assert status == 200, answer
        return answer["access_token"]
