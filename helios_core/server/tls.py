"""TLS of the server itself: versions 1.2 and 1.3, with a certificate that can be renewed."""

import ssl
from collections.abc import Callable
from pathlib import Path

import structlog

from helios_core.errors import ConfigurationError

_log = structlog.stdlib.get_logger()


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """
    Return a context of TLS 1.2 and 1.3 with a certificate chain and its key, both PEM.

    Raises:
        ConfigurationError: A file cannot be read, is not a PEM file or needs a password, or the
            key is not that of the certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A renegotiation costs the server far more computation than the client.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    _load(context, certificate, key)
    return context


def reloader(context: ssl.SSLContext, certificate: Path, key: Path) -> Callable[[], None]:
    """
    Return a function that reloads the two files for new connections.

    Open connections stay as they are. If the files cannot be used, the earlier certificate stays
    in use, and the log has the reason.
    """

    def reload() -> None:
        try:
            # OpenSSL replaces the certificate before it checks the key, so a trial comes first.
            server_context(certificate, key)
            _load(context, certificate, key)
        except ConfigurationError as error:
            _log.error("tls.not_reloaded", reason=str(error))
        else:
            _log.info("tls.reloaded")

    return reload


def _load(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise ConfigurationError(
            f"HFS_TLS_CERT ({certificate}) and HFS_TLS_KEY ({key}) cannot be used: {reason}; "
            "both are PEM files: the certificate followed by its intermediate ones, and the "
            "private key of the certificate without a password"
        ) from error


def _no_password() -> str:
    """Raise ValueError for a key with a password; OpenSSL would ask for it on the terminal."""
    raise ValueError("the key needs a password")
