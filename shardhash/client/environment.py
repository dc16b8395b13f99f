"""What the environment says about the network: whom to trust, and which proxy to take.

==========================================  ===========================================================================
``SSL_CERT_FILE``, ``SSL_CERT_DIR``         authorities to trust instead of the system's
``SHARDHASH_CLIENT_CERT``, ``..._KEY``      this client's own certificate, for servers that ask for one, and its key
``HTTPS_PROXY``, ``HTTP_PROXY``,            the proxy for wss://, for ws://, and for whichever has none of its own, as
``ALL_PROXY``                               BitBake passes them on; lower case too
``NO_PROXY``                                hosts that are reached without one; this machine always is
==========================================  ===========================================================================
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from shardhash.errors import ConfigError
from shardhash.wire.address import Address

if TYPE_CHECKING:
    from ssl import SSLContext

CLIENT_CERT = "SHARDHASH_CLIENT_CERT"
CLIENT_KEY = "SHARDHASH_CLIENT_KEY"
_PROXY_OF = {"ws": "http", "wss": "https"}


def tls_context() -> SSLContext:
    """How to verify a server. Raises ConfigError when this client's own certificate cannot be used."""
    import ssl  # takes longer to import than a line to answer

    context = ssl.create_default_context()
    certificate, key = os.environ.get(CLIENT_CERT), os.environ.get(CLIENT_KEY)
    if certificate:
        try:
            context.load_cert_chain(certificate, key or None, _no_password)
        except OSError as error:
            raise ConfigError(f"{CLIENT_CERT}={certificate}, {CLIENT_KEY}={key or ''}: {error}") from None
    return context


def proxy_for(address: Address) -> str | None:
    """The URL of the proxy to reach an address by, if there is one. Raises ConfigError for one that is no URL."""
    scheme = _PROXY_OF.get(address.kind)
    if scheme is None or not any(name.lower().endswith("_proxy") for name in os.environ) or address.local:
        return None
    # It takes six times as long to import as a report to make, and most have no proxy.
    from urllib.parse import urlsplit
    from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

    proxies = getproxies_environment()
    proxy = proxies.get(scheme) or proxies.get("all")
    if not proxy or proxy_bypass_environment(f"{address.host}:{address.port}", proxies):
        return None
    url = proxy if "://" in proxy else f"http://{proxy}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        place = f"{parts.scheme}://{parts.hostname or ''}"  # the rest may hold a password
        raise ConfigError(f"{scheme.upper()}_PROXY: {place} cannot be used; write http://HOST:PORT")
    return url


def _no_password() -> str:
    raise ConfigError(f"the key of {CLIENT_CERT} is encrypted; give one without a password")
