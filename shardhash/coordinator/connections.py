"""Connections: which are open, from where, what each holds, and when one has to go.

A connection is *fresh* until its first request. When there are too many, the oldest fresh one gives way to a new one;
a new one is refused only when there is none. What connections hold is counted as it changes: bytes received and not
answered yet, bytes of answers not sent yet. Over half of the budget no more is read from those that hold more than
their share of it, so that who asks little goes on; over the whole of it the largest is dropped, until all is below
again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable

from shardhash.base.networks import group_of
from shardhash.coordinator.complaints import Complaints
from shardhash.coordinator.connection import Connection
from shardhash.coordinator.limits import ServerLimits
from shardhash.errors import InvokeError

log = logging.getLogger(__name__)

LOOK_PAUSE = 0.25
"""Seconds between looks at all connections."""
LOOKS_AT_ONCE = 500
"""Connections looked at before others run; 1 ms."""
STANDSTILL = 2.0
"""Seconds for which those that wait for memory may stand still, before the largest connections are dropped."""
SLOWEST = 256 * 1024
"""Bytes a second at which a message has to come in, beyond the limit of time for small ones."""
_MIB = 1 << 20


class Connections:
    """All connections of a server. Use from one event loop."""

    def __init__(
        self,
        limits: ServerLimits,
        complaints: Complaints,
        descriptors: int = 1 << 20,
        tell: Callable[[int], None] | None = None,
    ) -> None:
        """`descriptors`: how many there are for connections. `tell` is called with how many are open."""
        self._tell_load = tell or _tell_nobody
        self._refused = 0
        """Connections that were refused in the last second or so."""
        self.limits = limits
        self._complaints = complaints
        self._most = min(limits.connections, descriptors)
        self._open: dict[int, Connection] = {}
        self._fresh: dict[Connection, None] = {}
        self._fresh_of_host: dict[str, dict[Connection, None]] = {}
        self._of_host: Counter[str] = Counter()
        self._of_user: Counter[str] = Counter()
        self._held = 0
        self._waiting: deque[Connection] = deque()
        self._moved = 0.0
        self._loop = asyncio.get_running_loop()
        self._left = self._loop.time()
        """When one was closed last."""
        self._tell()

    def __len__(self) -> int:
        return len(self._open)

    def quiet(self) -> float:
        """Seconds for which none has been open."""
        return 0.0 if self._open else self._loop.time() - self._left

    # ------------------------------------------------------------------------------------- coming and going

    def admit(self, fd: int, address: str, peer: str, *, shared: bool = False) -> Connection | None:
        """A new connection; None when it must be closed. `shared`: a proxy, which any number of hosts come by."""
        if (before := self._open.get(fd)) is not None:  # its end was not told yet
            self.remove(before)
        if not shared and not self._may_come(group_of(address), peer):
            return None
        if len(self._open) >= self._most and not self.give_way():
            self._refuse(
                "connections",
                f"{peer}: refused: {len(self._open)} connections are open, and all are in use; --limit connections=N"
                " allows more, as far as the limit of open files (ulimit -n) does",
            )
            return None
        connection = self._open[fd] = Connection(fd, address, peer, self._loop.time())
        self._tell()
        self._fresh[connection] = None
        self._fresh_of_host.setdefault(connection.host, {})[connection] = None
        self._of_host[connection.host] += 1
        return connection

    def _may_come(self, host: str, peer: str) -> bool:
        """Whether a host may have one more connection."""
        if self._of_host[host] < self.limits.peer_connections or self.give_way(host):
            return True
        self._refuse(
            "peer_connections",
            f"{peer}: refused: {host} has {self.limits.peer_connections} connections open already;"
            " --limit peer_connections=N allows more",
        )
        return False

    def _refuse(self, kind: str, text: str) -> None:
        """A connection is refused. Another coordinator may have room for it, if it comes again."""
        self._complaints.add(kind, text)
        self._refused += 1
        self._tell()

    def _tell(self) -> None:
        self._tell_load(len(self._open) + self._refused)

    def move(self, connection: Connection, address: str, peer: str) -> bool:
        """A proxy said that it is from another address. False when that host has too many."""
        if not self.holds(connection) or not self._may_come(group_of(address), peer):
            return False
        fresh = connection in self._fresh
        self._forget_fresh(connection)
        _count_down(self._of_host, connection.host)
        connection.address, connection.host, connection.peer = address, group_of(address), peer
        self._of_host[connection.host] += 1
        if fresh:
            self._fresh_of_host.setdefault(connection.host, {})[connection] = None
        return True

    def holds(self, connection: Connection) -> bool:
        """Whether it is open."""
        return self._open.get(connection.fd) is connection

    def complain(self, kind: str, text: str) -> None:
        """Count and log what a peer did."""
        self._complaints.add(kind, text)

    def of(self, fd: int) -> Connection | None:
        """The connection with this descriptor; None when it was dropped a moment ago."""
        return self._open.get(fd)

    def give_way(self, host: str | None = None) -> bool:
        """Close the oldest connection, of all or of a host, that has not asked anything, if there is one."""
        oldest = next(iter(self._fresh if host is None else self._fresh_of_host.get(host, ())), None)
        if oldest is None:
            return False
        self._complaints.add(
            "gave_way", f"{oldest.peer}: closed: it asked nothing, and {len(self._open)} connections are open"
        )
        self._drop(oldest)
        return True

    def remove(self, connection: Connection) -> None:
        """It is closed."""
        if not self.holds(connection):
            return
        del self._open[connection.fd]
        self._tell()
        self._left = self._loop.time()
        self.asked(connection)
        _count_down(self._of_host, connection.host)
        if connection.user is not None:
            _count_down(self._of_user, connection.user)
            connection.user = None
        self._held -= connection.held + connection.queued + connection.unsent + connection.unwritten
        connection.held = connection.queued = connection.unsent = connection.unwritten = 0
        self._move(connection)
        self._read_on()

    def _drop(self, connection: Connection) -> None:
        if connection.transport is not None:
            connection.transport.abort()
        else:
            connection.hang_up()
        self.remove(connection)

    def asked(self, connection: Connection) -> None:
        """It made its first request."""
        connection.fresh = False
        if connection not in self._fresh:
            return
        self._forget_fresh(connection)
        del self._fresh[connection]

    def _forget_fresh(self, connection: Connection) -> None:
        of_host = self._fresh_of_host.get(connection.host, {})
        of_host.pop(connection, None)
        if not of_host:
            self._fresh_of_host.pop(connection.host, None)

    def claim(self, connection: Connection, user: str | None) -> None:
        """It logged in. InvokeError when the user has too many connections."""
        if user == connection.user:
            return
        if user is not None and self._of_user[user] >= self.limits.user_connections:
            self._complaints.add(
                "user_connections", f"{connection.peer}: refused: {user} has too many connections; see user_connections"
            )
            raise InvokeError(
                f"{user} has {self.limits.user_connections} connections open already, which is the server's limit"
                " user_connections"
            )
        if connection.user is not None:
            _count_down(self._of_user, connection.user)
        connection.user = user
        if user is not None:
            self._of_user[user] += 1

    # ----------------------------------------------------------------------------------------------- memory

    def keep(self, connection: Connection, held: int) -> None:
        """It holds this many received bytes. It must not read while `paused` is true; `resume` ends that."""
        if not self.holds(connection):
            return
        change = held - connection.held
        connection.held = held
        self._held += change
        if change < 0:
            self._move(connection)
            self._read_on()
        half = self.limits.memory // 2
        if self._held <= half or held <= half // len(self._open) or connection.paused:
            return
        if self._held > self.limits.memory:
            self._loop.call_soon(self._relieve)
        if not self._waiting:
            self._moved = self._loop.time()
        self._waiting.append(connection)
        connection.paused = True

    def queue(self, connection: Connection, queued: int) -> None:
        """This many of its bytes wait in aiohttp."""
        if not self.holds(connection):
            return
        self._held += queued - connection.queued
        connection.queued = queued
        if self._held > self.limits.memory:
            self._loop.call_soon(self._relieve)

    def keep_unsent(self, connection: Connection, unsent: int) -> None:
        """This many bytes of its answers wait to be sent."""
        if not self.holds(connection):
            return
        if unsent < connection.unsent:
            self._move(connection)
        self._held += unsent - connection.unsent
        connection.unsent = unsent
        if self._held > self.limits.memory:
            self._loop.call_soon(self._relieve)

    def keep_unwritten(self, connection: Connection, unwritten: int) -> None:
        """This many bytes of a long answer wait to be handed over for sending."""
        if not self.holds(connection):
            return
        if unwritten < connection.unwritten:
            self._move(connection)
        self._held += unwritten - connection.unwritten
        connection.unwritten = unwritten
        if self._held > self.limits.memory:
            self._loop.call_soon(self._relieve)

    def _move(self, connection: Connection) -> None:
        """It holds less than before. Only of one that waits does that say that there will be room again."""
        if connection.paused:
            self._moved = self._loop.time()

    def _read_on(self) -> None:
        while self._waiting and self._held <= self.limits.memory // 2:
            self._moved = self._loop.time()
            connection = self._waiting.popleft()
            connection.paused = False
            connection.resume()

    def _relieve(self) -> None:
        """Drop the largest connections until the budget holds."""
        while self._held > self.limits.memory and self._open:
            self._drop_largest()

    def _make_room(self) -> None:
        """Drop the largest connections until those that wait may go on."""
        while self._waiting and self._open:
            self._drop_largest()

    def _drop_largest(self) -> None:
        largest = max(self._open.values(), key=lambda each: each.held + each.queued + each.unsent + each.unwritten)
        received, unsent = (largest.held + largest.queued) / _MIB, (largest.unsent + largest.unwritten) / _MIB
        self._complaints.add(
            "memory",
            f"{largest.peer}: dropped: it holds {received:.1f} MiB received and {unsent:.1f} MiB unsent, more than"
            f" all others; --limit memory=SIZE allows more than {self.limits.memory / _MIB:.0f} MiB",
        )
        self._drop(largest)

    # ------------------------------------------------------------------------------------------------- time

    async def watch(self) -> None:
        """Close what is over a limit of time, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_PAUSE)
            if self._refused:
                self._refused //= 2
                self._tell()
            if self._waiting and self._loop.time() - self._moved > STANDSTILL:
                self._make_room()
            for number, connection in enumerate(list(self._open.values())):
                if not number % LOOKS_AT_ONCE:
                    await asyncio.sleep(0)
                self._look_at(connection, self._loop.time())

    def _look_at(self, connection: Connection, now: float) -> None:
        if not self.holds(connection):
            return
        if (connection.paused or connection.busy()) and connection.is_gone():
            self._drop(connection)
            return
        reason = self._overdue(connection, now)
        if reason is not None:
            name, text = reason
            self._complaints.counts[name] += 1
            log.info("%s: closed: %s (limit %s)", connection.peer, text, name)
            self._drop(connection)

    def _overdue(self, connection: Connection, now: float) -> tuple[str, str] | None:
        """The limit of time that a connection is over, and what it did not do; None when it is over none."""
        limits = self.limits
        if self._stalls(connection, now):
            return "write_time", f"it has read nothing for {limits.write_time:g} s"
        if connection.paused or connection.busy():
            connection.partial_since = now  # whatever is late, it is not this client
            return None
        if connection.partial and now - connection.partial_since > limits.message_time + connection.partial / SLOWEST:
            return "message_time", f"a message is not complete after {now - connection.partial_since:.0f} s"
        if connection.fresh:
            return self._fresh_overdue(connection, now - connection.since)
        if not connection.partial and now - connection.heard > limits.idle_time:
            return "idle_time", f"it has asked nothing for {limits.idle_time:g} s"
        return None

    def _fresh_overdue(self, connection: Connection, age: float) -> tuple[str, str] | None:
        limits = self.limits
        if not connection.greeted and age > limits.hello_time:
            return "hello_time", f"it has not shaken hands within {limits.hello_time:g} s"
        if not connection.partial and age > limits.hello_time + limits.first_time:
            return "first_time", f"it has asked nothing within {limits.first_time:g} s"
        return None

    def _stalls(self, connection: Connection, now: float) -> bool:
        """Whether its peer has read nothing of what waits to be sent for too long."""
        if connection.transport is None:
            return False
        try:
            unsent = connection.transport.get_write_buffer_size()
        except AttributeError:  # asyncio's own transport of a TLS connection that was aborted
            return False
        if not unsent or unsent < connection.unsent or not connection.unsent:
            connection.unsent_since = now
        if unsent != connection.unsent:
            self.keep_unsent(connection, unsent)
        return unsent > 0 and now - connection.unsent_since > self.limits.write_time


def _count_down(counter: Counter[str], name: str) -> None:
    counter[name] -= 1
    if counter[name] <= 0:
        del counter[name]


def _tell_nobody(_connections: int) -> None:
    pass
