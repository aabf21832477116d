"""
All errors, sorted by who must act.

HeliosError
├── RequestError          the client must change the request
│   ├── InvalidRequest        malformed or not allowed as sent
│   │   ├── InvalidParameter      a parameter value that is not valid
│   │   ├── UnsupportedParameter  a parameter or value this server does not implement
│   │   ├── InvalidResource       a body that is not a valid FHIR resource
│   │   └── TooCostly             a search that would have to read too much
│   ├── PatchFailed           a patch that does not fit the resource
│   ├── ResourceNotFound      no such resource or version
│   │   └── ResourceDeleted       the resource has been deleted
│   ├── JobNotFound           no such export of this caller
│   ├── PartNotFound          no such file in this export
│   ├── VersionConflict       If-Match does not name the current version
│   ├── MultipleMatches       several resources match where one is needed
│   ├── ResourceExists        the id of a resource to be created is taken
│   ├── TooManyExports        the tenant has its maximum of active exports
│   ├── BodyTooLarge          the body exceeds HFS_MAX_BODY_BYTES
│   ├── InvalidToken          the access token is not valid
│   │   └── MissingToken          the request has no access token
│   └── Forbidden             the access token does not allow the request
├── BackendError          the operator must act, while the process runs
│   ├── BackendUnavailable    a retry may succeed: busy, down, out of space
│   │   ├── StoreBusy             another writer is in the way; nothing was changed
│   │   └── StoreReplaced         the database was replaced while it was open
│   ├── UnreadableJob         a stored export is damaged or of a newer version
│   └── PartMissing           a published part is gone from the output store
├── ConfigurationError    the operator must act: the process does not start
│   ├── UnknownPlugin         a setting names a plugin that is not installed
│   ├── BrokenPlugin          an installed plugin cannot be imported or violates the contract
│   ├── DuplicatePlugin       two distributions claim one name
│   └── SchemaOutdated        the database needs `helios migrate`
└── LeaseLost             nobody: the worker stops; another worker has the shard

Every class has the FHIR issue code of its OperationOutcome; only `helios_core.http.errors` knows
HTTP statuses. A message says what was found, what was expected and what to do, and never contains
resource content, a patient's id, a search value, a token or a signed URL.
"""

from typing import ClassVar


class HeliosError(Exception):
    """The base class of every error that Helios raises on purpose."""

    code: ClassVar[str] = "exception"
    """The FHIR issue-type code (http://hl7.org/fhir/issue-type)."""


class RequestError(HeliosError):
    """The client has to change the request before it retries."""

    code = "invalid"


class InvalidRequest(RequestError):
    """The request is malformed or is not allowed as sent."""


class InvalidParameter(InvalidRequest):
    """The value of a parameter is not valid."""

    code = "value"


class UnsupportedParameter(InvalidRequest):
    """The server does not implement a parameter, or this value of it."""

    code = "not-supported"


class InvalidResource(InvalidRequest):
    """A body is not a valid FHIR resource of the expected type."""

    code = "structure"


class TooCostly(InvalidRequest):
    """The request would take more resources than one request may; the client has to narrow it."""

    code = "too-costly"


class PatchFailed(RequestError):
    """A patch is well-formed, but cannot be applied to the resource as it is."""

    code = "processing"


class ResourceNotFound(RequestError):
    """No resource of that type and id is stored, or no such version of it."""

    code = "not-found"


class ResourceDeleted(ResourceNotFound):
    """The resource has been deleted."""

    code = "deleted"


class JobNotFound(RequestError):
    """No export of that id belongs to the caller; another caller may have one."""

    code = "not-found"


class PartNotFound(RequestError):
    """The export has no file of that name."""

    code = "not-found"


class VersionConflict(RequestError):
    """The version that the client named is not the current one."""

    code = "conflict"


class MultipleMatches(RequestError):
    """Several resources match the condition of a change to one resource."""

    code = "multiple-matches"


class ResourceExists(RequestError):
    """A resource would be created with the id of an existing one that the condition excludes."""

    code = "duplicate"


class TooManyExports(RequestError):
    """The tenant has the maximum number of active exports."""

    code = "throttled"


class BodyTooLarge(RequestError):
    """The request body exceeds the configured limit."""

    code = "too-long"


class InvalidToken(RequestError):
    """The access token of the request is not valid; the message has no part of it."""

    code = "login"


class MissingToken(InvalidToken):
    """The request has no access token."""


class Forbidden(RequestError):
    """The access token is valid, but its scopes do not allow the request."""

    code = "forbidden"


class BackendError(HeliosError):
    """A backend failed; the operator has to find out why."""

    code = "exception"


class BackendUnavailable(BackendError):
    """A backend cannot respond now (busy, down, out of space); a retry may succeed."""

    code = "transient"


class StoreBusy(BackendUnavailable):
    """Another writer holds what a write needs; nothing was changed, so it may be repeated."""


class StoreReplaced(BackendUnavailable):
    """The files or tables of a backend were replaced while open; writes to them are lost."""


class UnreadableJob(BackendError):
    """A stored export is damaged, or was written by a newer version."""


class PartMissing(BackendError, FileNotFoundError):
    """A published part is missing from the output store."""

    code = "not-found"


class ConfigurationError(HeliosError):
    """The process refuses to start until the operator changes the configuration."""

    def __init__(self, found: str, *, advice: str = "") -> None:
        super().__init__(found)
        self.found = found
        self.advice = advice
        """What to do; empty if `found` says so."""

    def __str__(self) -> str:
        """Return what was found and what to do."""
        return "; ".join(filter(None, (self.found, self.advice)))


class UnknownPlugin(ConfigurationError):
    """A setting names a plugin that is not installed."""


class BrokenPlugin(ConfigurationError):
    """An installed plugin cannot be imported or violates the contract of the hooks."""


class DuplicatePlugin(ConfigurationError):
    """Two installed distributions claim the same plugin name."""


class SchemaOutdated(ConfigurationError):
    """The schema of the database is older than the code; `helios migrate` updates it."""


class LeaseLost(HeliosError):
    """A newer lease exists or the job has ended; the holder may write nothing more."""
