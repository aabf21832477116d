"""TLS of the server itself: versions 1.2 and 1.3, with a certificate that can be renewed."""

import ssl
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from helios_core.errors import ConfigurationError

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Those of TLS 1.2: forward secrecy and authenticated encryption only (RFC 9325, section 4)."""

_log = structlog.stdlib.get_logger()


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """
    Return a context of TLS 1.2 and 1.3 with a certificate chain and its key, both PEM.

    If every user of this machine can read the key, the log has a warning.

    Raises:
        ConfigurationError: A file cannot be read, is not a PEM file or needs a password, or the
            key is not that of the certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A renegotiation costs the server far more computation than the client.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
        exposed = key.stat().st_mode & stat.S_IROTH
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise ConfigurationError(
            f"HFS_TLS_CERT ({certificate}) and HFS_TLS_KEY ({key}) cannot be used: {reason}; "
            "both are PEM files: the certificate followed by its intermediate ones, and the "
            "private key of the certificate without a password"
        ) from error
    if exposed:
        _log.warning("tls.key_exposed", path=str(key))
    return context


def reloader(context: ssl.SSLContext, certificate: Path, key: Path) -> Callable[[], None]:
    """
    Return a function that reloads the two files for new connections.

    Open connections stay as they are. If the files cannot be used, the earlier certificate stays
    in use, and the log has the reason.
    """

    def reload() -> None:
        try:
            renewed = server_context(certificate, key)
        except ConfigurationError as error:
            _log.error("tls.not_reloaded", reason=str(error))
            return

        # Loading the files into the context in use would, if that fails halfway, leave it with a
        # certificate and the key of another. This is also called if the client names no host.
        def renew(connection: ssl.SSLObject, _host: str | None, _: ssl.SSLContext) -> None:
            connection.context = renewed

        context.sni_callback = renew
        _log.info("tls.reloaded")

    return reload


def _no_password() -> str:
    """Raise ValueError for a key with a password; OpenSSL would ask for it on the terminal."""
    raise ValueError("the key needs a password")
