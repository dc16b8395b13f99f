"""TLS as a filter of bytes, without a socket: so it works on any stream, also on one that is inside TLS itself."""

from __future__ import annotations

import ssl

from shardhash.client.byte_stream import READ_SIZE
from shardhash.wire.hashes import Buffer


class Tls:
    """One side of a TLS connection. Raises ssl.SSLError."""

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self._input = ssl.MemoryBIO()
        self._output = ssl.MemoryBIO()
        self._connection = context.wrap_bio(self._input, self._output, server_hostname=host)
        self.ended = False
        """Whether the server said that nothing more comes."""

    def shake_hands(self, data: bytes) -> bool:
        """Take bytes of the server's handshake; whether it is done."""
        self._input.write(data)
        try:
            self._connection.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def encrypt(self, data: Buffer) -> bytes:
        """What to send for some bytes."""
        with memoryview(data) as view:
            sent = 0
            while sent < len(data):
                sent += self._connection.write(view[sent:])
        return self._output.read()

    def decrypt(self, data: bytes) -> bytes:
        """The bytes in what has arrived; there may be none yet."""
        self._input.write(data)
        parts: list[bytes] = []
        try:
            while part := self._connection.read(READ_SIZE):
                parts.append(part)
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        return b"".join(parts)

    def take_output(self) -> bytes:
        """What TLS itself has to say to the server."""
        return self._output.read()

    def say_goodbye(self) -> bytes:
        """What tells the server that nothing more comes."""
        try:
            self._connection.unwrap()
        except ssl.SSLError:  # it wants the server's goodbye, for which nobody waits
            pass
        return self._output.read()
