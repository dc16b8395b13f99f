"""A socket with limits of time, which sends while it waits for answers.

A `Stream` queues what is sent and writes it whenever it waits, for reading too. So however much is asked at once, two
full socket buffers never wait for each other. TLS needs both directions in one thread, which is why this is not two
threads.
"""

from __future__ import annotations

import select
import socket
import ssl
import time

SLOWEST = 16 * 1024
"""Bytes a second; a server that is slower than this may run into the limit of time."""
READ_SIZE = 256 * 1024

_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Stream:
    """A connected socket. Raises OSError; TimeoutError when `timeout` seconds bring nothing."""

    def __init__(self, sock: socket.socket, timeout: float) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._timeout = timeout
        self._out = bytearray()
        self._poll = select.poll()
        self._end = 0.0
        self._needs_write = False
        self.begin(0)

    def begin(self, size: int) -> None:
        """A call begins that moves about `size` bytes. It has to end, however steadily bytes trickle in."""
        self._end = time.monotonic() + self._timeout + size / SLOWEST

    def send(self, data: bytes) -> None:
        """Queue bytes; they leave with the next `receive` or `flush`."""
        self._out += data

    def flush(self) -> None:
        """Write all that is queued."""
        while self._write():
            self._wait(reading=False, limit=self._timeout)

    def receive(self, limit: float | None = None) -> bytes:
        """The next bytes, within `limit` seconds if that is less than the time limit."""
        patience = self._timeout if limit is None else min(limit, self._timeout)
        while True:
            self._write()
            data = self._read()
            if data is not None:
                if not data:
                    raise ConnectionResetError("the server closed the connection")
                return data
            self._wait(reading=True, limit=patience)

    def _write(self) -> bool:
        """Write what can be written now; whether some is left."""
        while self._out:
            try:
                with memoryview(self._out) as view:
                    count = self._sock.send(view[:READ_SIZE])
            except _NOT_NOW as error:
                self._needs_write = not isinstance(error, ssl.SSLWantReadError)
                return True
            except (BrokenPipeError, ConnectionResetError):
                # What the server said before it closed, a refusal perhaps, is still to be read.
                self._out.clear()
                return False
            del self._out[:count]
        self._needs_write = False
        return False

    def _read(self) -> bytes | None:
        """What has arrived: None for nothing yet, empty for the end."""
        try:
            return self._sock.recv(READ_SIZE)
        except _NOT_NOW as error:
            self._needs_write = self._needs_write or isinstance(error, ssl.SSLWantWriteError)
            return None

    def _wait(self, *, reading: bool, limit: float) -> None:
        wait = min(limit, self._end - time.monotonic())
        events = (select.POLLIN if reading or not self._needs_write else 0) | (
            select.POLLOUT if self._needs_write else 0
        )
        self._poll.register(self._sock, events)
        if wait <= 0 or not self._poll.poll(wait * 1000):
            raise TimeoutError(f"the server did not answer within {self._timeout:g} s")

    def close(self) -> None:
        """Close this process's end. In a forked child the parent's connection goes on."""
        self._sock.close()
