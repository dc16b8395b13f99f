"""TLS of the listeners: certificate, key and, for mutual TLS, the authority of the clients' certificates.

The files are loaded again when they change, and on SIGHUP. A change that cannot be used (a key that does not belong to
the certificate yet) is logged, and what was loaded before stays in use. New connections get what is loaded; open ones
keep what they began with.

How: the context that listeners hold never changes. It hands each handshake on to the newest context, by the callback
for server names, which OpenSSL calls for clients that name none as well.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Mapping
from typing import Any, NoReturn, TypeAlias

from shardhash.coordinator.bind import TlsFiles
from shardhash.errors import ConfigError

log = logging.getLogger(__name__)

LOOK_PAUSE = 2.0
"""Seconds between looks at the files."""

_Stamps: TypeAlias = list[tuple[int, int, int] | None]


class ServerTls:
    """The TLS of a server. ConfigError, which says what is wrong and where, when its files cannot be used."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._seen = _stamps(files)
        self._current = _load(files)
        self.context = _load(files)
        """For listeners."""
        self.context.sni_callback = self._hand_on

    def reload(self, files: TlsFiles | None = None) -> None:
        """Load the files again, or others; what cannot be used is logged, and changes nothing."""
        self._files = files or self._files
        self._seen = _stamps(self._files)
        try:
            self._current = _load(self._files)
        except ConfigError as error:
            log.error("%s; the certificate loaded before stays in use", error)
        else:
            log.info("the certificate %s is loaded again", self._files.certificate)

    async def watch(self) -> None:
        """Load the files whenever they change, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_PAUSE)
            if _stamps(self._files) != self._seen:
                self.reload()

    def _hand_on(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._current


def name_in_certificate(certificate: Mapping[str, Any] | None) -> str | None:
    """The common name of a client's verified certificate, as ssl decodes it; None without one."""
    names = [value for parts in (certificate or {}).get("subject", ()) for key, value in parts if key == "commonName"]
    return names[-1] if names else None


def _load(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    # A session taken up again would not be looked at again, though the authority may be another by then.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    where = files.certificate if files.key is None else f"{files.certificate} with the key {files.key}"
    try:
        context.load_cert_chain(files.certificate, files.key, _no_password)
    except ssl.SSLError as error:
        raise ConfigError(
            f"the certificate {where} cannot be used: {_reason(error)}; both must be PEM, the chain in the first file,"
            " and the key must be that of the certificate"
        ) from None
    except OSError as error:
        raise ConfigError(f"the certificate {where} cannot be read: {error.strerror or error}") from None
    if files.client_ca is not None:
        try:
            context.load_verify_locations(files.client_ca)
        except ssl.SSLError as error:
            raise ConfigError(f"{files.client_ca} holds no certificates in PEM: {_reason(error)}") from None
        except OSError as error:
            raise ConfigError(f"cannot read {files.client_ca}: {error.strerror or error}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).lower().replace("_", " ")


def _no_password() -> NoReturn:
    raise ConfigError("the key of the TLS certificate is encrypted; give one without a password")


def _stamps(files: TlsFiles) -> _Stamps:
    """A stamp that differs when a file changed; a symlink to another file counts as a change."""
    stamps: _Stamps = []
    for path in (files.certificate, files.key, files.client_ca):
        if path is not None:
            try:
                found = path.stat()
            except OSError:
                stamps.append(None)
            else:
                stamps.append((found.st_ino, found.st_mtime_ns, found.st_size))
    return stamps
