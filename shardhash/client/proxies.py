"""HTTP proxies on the way to a WebSocket server.

A proxy passes requests to ws:// servers on by itself, and makes a tunnel to wss:// servers (CONNECT), as browsers and
most clients have it.
"""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from shardhash.client.byte_stream import ByteStream
from shardhash.client.environment import tls_context
from shardhash.client.websocket import receive_head
from shardhash.errors import ProtocolError
from shardhash.wire.address import Address
from shardhash.wire.websocket import basic_authorization, check_connect, encode_connect


class Proxy:
    """A proxy by its URL: ``http[s]://[USER:PASSWORD@]HOST[:PORT]``."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._encrypted = parts.scheme == "https"
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if self._encrypted else 80)
        self.authorization = ""
        """The value of the header that it asks for."""
        if parts.username:
            self.authorization = basic_authorization(unquote(parts.username), unquote(parts.password or ""))

    async def prepare(self, stream: ByteStream, address: Address, end: float) -> None:
        """Make a connection to the proxy ready for what is said to a server."""
        if self._encrypted:
            await stream.start_tls(tls_context(), self.host, end)
        if not address.encrypted:
            return
        await stream.send(encode_connect(address, self.authorization), end)
        head, rest = await receive_head(stream, end)
        check_connect(head, address)
        if rest:
            raise ProtocolError("the proxy sent more than its answer before anything was asked of the server")
