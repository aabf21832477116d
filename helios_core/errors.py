"""
Everything that can go wrong, sorted by who must act.

HeliosError
├── RequestError          the client must change the request
│   ├── InvalidRequest        malformed or not allowed as sent
│   │   ├── InvalidParameter      a parameter value that cannot mean anything
│   │   ├── UnsupportedParameter  a parameter or value this server does not implement
│   │   ├── InvalidResource       a body that is not the FHIR resource it should be
│   │   └── TooCostly             a search that would have to look at too much
│   ├── ResourceNotFound      no such resource, or none of that version
│   │   └── ResourceDeleted       it was there once
│   ├── JobNotFound           no such export, or not this caller's
│   ├── PartNotFound          no such file in this export
│   ├── VersionConflict       If-Match named another version than the current one
│   ├── MultipleMatches       several resources match where one must
│   ├── ResourceExists        a resource to be created has an id that is taken
│   ├── TooManyExports        the tenant's cap of active exports is reached
│   └── BodyTooLarge          the body exceeds HFS_MAX_BODY_BYTES
├── BackendError          the operator must act, later
│   ├── BackendUnavailable    worth another try: busy, down, out of space
│   └── PartMissing           a published part is gone: our fault, never a 404
├── ConfigurationError    the operator must act, now: the process does not start
│   ├── UnknownPlugin         a setting names a plugin that is not installed
│   ├── BrokenPlugin          an installed plugin cannot be imported or breaks the contract
│   ├── DuplicatePlugin       two distributions claim one name
│   └── SchemaOutdated        the database needs `helios migrate`
└── LeaseLost             nobody: the worker stops and another one has the shard

Every class carries the FHIR issue code its OperationOutcome shows; HTTP statuses are the business
of `helios_core.http.errors` alone. A message says what was found, what was expected and what to
do, and never holds resource content, a patient's id, a search value, a token or a signed URL.
"""

from typing import ClassVar


class HeliosError(Exception):
    """The root of every error this project raises on purpose."""

    code: ClassVar[str] = "exception"
    """The FHIR issue-type code (http://hl7.org/fhir/issue-type)."""


class RequestError(HeliosError):
    """The client has to change the request before trying again."""

    code = "invalid"


class InvalidRequest(RequestError):
    """The request is malformed or is not allowed as sent."""


class InvalidParameter(InvalidRequest):
    """A parameter's value cannot mean anything."""

    code = "value"


class UnsupportedParameter(InvalidRequest):
    """A parameter, or this value of it, is something the server does not implement."""

    code = "not-supported"


class InvalidResource(InvalidRequest):
    """A body is not the FHIR resource it should be."""

    code = "structure"


class TooCostly(InvalidRequest):
    """Answering would take more than one request may; the client has to narrow it."""

    code = "too-costly"


class ResourceNotFound(RequestError):
    """No resource of that type and id, or none of that version, is stored."""

    code = "not-found"


class ResourceDeleted(ResourceNotFound):
    """The resource was stored once and has been deleted since."""

    code = "deleted"


class JobNotFound(RequestError):
    """No export of that id belongs to the caller; whether it exists elsewhere is not told."""

    code = "not-found"


class PartNotFound(RequestError):
    """The export has no file of that name."""

    code = "not-found"


class VersionConflict(RequestError):
    """The version named by the client is not the current one."""

    code = "conflict"


class MultipleMatches(RequestError):
    """Several resources match the condition of a change that is about one."""

    code = "multiple-matches"


class ResourceExists(RequestError):
    """A resource would be created, but there is one of that id that is not meant."""

    code = "duplicate"


class TooManyExports(RequestError):
    """The tenant has as many active exports as it may have."""

    code = "throttled"


class BodyTooLarge(RequestError):
    """The request body exceeds the configured limit."""

    code = "too-long"


class BackendError(HeliosError):
    """A backend failed; the operator has to look."""

    code = "exception"


class BackendUnavailable(BackendError):
    """A backend cannot answer now (busy, down, out of space); another try may succeed."""

    code = "transient"


class PartMissing(BackendError, FileNotFoundError):
    """A published part is gone from the output store."""

    code = "no-store"


class ConfigurationError(HeliosError):
    """The process refuses to start until the operator changes the configuration."""


class UnknownPlugin(ConfigurationError):
    """A setting names a plugin that is not installed."""


class BrokenPlugin(ConfigurationError):
    """An installed plugin cannot be imported or does not keep the contract."""


class DuplicatePlugin(ConfigurationError):
    """Two installed distributions claim the same plugin name."""


class SchemaOutdated(ConfigurationError):
    """The database's schema is older than the code; `helios migrate` brings it up to date."""


class LeaseLost(HeliosError):
    """A newer lease exists or the job was ended; the holder may write nothing more."""
