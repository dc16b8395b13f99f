"""Handlers: what each command does, given who asks; PROTOCOL, "Messages", is the table that they follow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import orjson

from shardhash.base.turns import with_rests
from shardhash.coordinator import audit, blocks, permissions
from shardhash.coordinator.blocks import lookup_block
from shardhash.coordinator.callers import Caller
from shardhash.coordinator.forwarding import ForwardingRequests
from shardhash.coordinator.quarantining import Quarantining
from shardhash.coordinator.reporting import Reporting
from shardhash.coordinator.services import Services
from shardhash.errors import InvokeError, NoRoomError
from shardhash.stores.interface import TakesImports
from shardhash.wire import batch, streams
from shardhash.wire import messages as m
from shardhash.wire.collecting import Collect
from shardhash.wire.commands import COMMANDS, Command
from shardhash.wire.hashes import DIGEST_SIZE
from shardhash.wire.imports import ImportBatch
from shardhash.wire.long_text import long_list
from shardhash.wire.messages import Request
from shardhash.wire.rows import NEW, QUERY_COLUMNS, Report

USERS_AT_ONCE = 100
"""Users of an import between which others are answered; 0.5 ms of those that cannot be taken."""


class Handlers:
    """Answers the requests of command mode. Raises InvokeError for a refusal."""

    def __init__(self, services: Services) -> None:
        self._store = services.store
        self._users = services.users
        self._whole = services.whole
        self._counters = services.counters
        self._upkeep = services.upkeep
        self._reporting = Reporting(services)
        self._room = services.room
        self._rows = services.rows
        self._bulk = services.bulk
        exploring, quarantining = services.exploring, Quarantining(services.store)
        forwarding = ForwardingRequests(services.store)
        self._by_type: dict[type, Callable[[Caller, Any], Coroutine[Any, Any, Any]]] = {
            m.Ping: self._ping,
            m.Get: self._get,
            m.GetOuthash: self._get_outhash,
            m.GetStream: self._open_stream,
            m.ExistsStream: self._open_stream,
            m.GcMarkStream: self._open_stream,
            m.GetBatch: self._get_batch,
            m.ExistsBatch: self._exists_batch,
            Report: self._report,
            m.ReportBatch: self._report_batch,
            m.ReportEquiv: self._report_equiv,
            ImportBatch: self._import_batch,
            m.Remove: self._remove,
            m.CleanUnused: self._clean_unused,
            m.GcMark: self._gc_mark,
            m.GcStatus: self._gc_status,
            m.GcSweep: self._gc_sweep,
            m.GetStats: self._get_stats,
            m.ResetStats: self._reset_stats,
            m.GetDbUsage: self._get_db_usage,
            m.GetDbQueryColumns: self._get_db_query_columns,
            m.BackfillWait: self._backfill_wait,
            Collect: services.collections.collect,
            m.Find: exploring.find,
            m.GetRow: exploring.get_row,
            m.Diverging: exploring.diverging,
            m.Saved: exploring.saved,
            m.Guess: exploring.guess,
            m.Why: exploring.why,
            m.Quarantine: quarantining.quarantine,
            m.Quarantines: quarantining.quarantines,
            m.Release: quarantining.release,
            m.Discard: quarantining.discard,
            m.Forwarding: forwarding.forwarding,
            m.ForwardRefused: forwarding.forward_refused,
            m.DropRefused: forwarding.drop_refused,
            m.Auth: self._auth,
            m.RefreshToken: self._refresh_token,
            m.SetUserPerms: self._set_user_perms,
            m.GetUser: self._get_user,
            m.GetAllUsers: self._get_all_users,
            m.ListUsers: self._list_users,
            m.NewUser: self._new_user,
            m.DeleteUser: self._delete_user,
            m.BecomeUser: self._become_user,
        }

    async def answer(self, caller: Caller, command: Command, request: Request) -> Any:
        """The JSON value that answers a request."""
        permissions.check(caller.identity, command, getattr(request, "username", None))
        if command.long:
            async with self._upkeep.turn(caller.group):
                return await self._by_type[type(request)](caller, request)
        return await self._by_type[type(request)](caller, request)

    async def certify(self, caller: Caller, name: str) -> None:
        """Have a client act as the user that its certificate names, if there is one."""
        identity = await self._users.find(name)
        if identity is not None:
            caller.identity, caller.login = identity, name
            self._users.logged_in.add(caller)
            caller.identified()

    async def answer_frame(self, caller: Caller, asked: batch.Batch) -> bytes:
        """The frame that answers a native batch, which needs the permissions of get-batch."""
        permissions.check(caller.identity, COMMANDS["get-batch"])
        if len(asked.digests) > blocks.BULK * DIGEST_SIZE:
            async with self._bulk:
                return await self._answer_frame(caller, asked)
        return await self._answer_frame(caller, asked)

    async def _answer_frame(self, caller: Caller, asked: batch.Batch) -> bytes:
        if asked.op == batch.EXISTS:
            status = await blocks.exists_in_parts(self._store, asked.digests)
            return batch.encode_exists(self._counters.looked_for(status))
        found = await blocks.lookup_in_parts(self._store, asked.method, asked.digests)
        return batch.encode_found(self._counters.looked_up(found, caller.build))

    def frame_at_hand(self, caller: Caller, asked: batch.Batch) -> bytes | None:
        """The frame that answers a lookup batch, if all is at hand and the caller may ask; None: `answer_frame`."""
        if asked.op != batch.GET or not caller.identity.may(COMMANDS["get-batch"].needs):
            return None
        found = self._store.find(asked.method, asked.digests)
        return None if found is None else batch.encode_found(self._counters.looked_up(found, caller.build))

    def begin_report(self, caller: Caller, report: Report) -> asyncio.Future[list[bytes]] | None:
        """Begin to store a report, which `end_report` has to hear of; None: `answer` is to be asked."""
        return self._reporting.begin(caller, report)

    def end_report(self, caller: Caller, report: Report, stored: asyncio.Future[list[bytes]]) -> bytes:
        """The JSON that answers a report that `begin_report` began and that is done."""
        unihash = self._reporting.end(caller, report, stored)
        return orjson.dumps(_mapping(report.method, report.taskhash, unihash))

    # ------------------------------------------------------------------------------------------------ hashes

    async def _ping(self, _caller: Caller, _request: m.Ping) -> Any:
        return {"alive": True}

    async def _get(self, caller: Caller, request: m.Get) -> Any:
        if request.all:
            async with self._rows:
                return await self._store.get_row(request.method, request.taskhash)
        block = streams.group_taskhashes(request.method, [request.taskhash])
        unihash = self._counters.looked_up(await lookup_block(self._store, block), caller.build).unihashes()[0]
        return None if unihash is None else _mapping(request.method, request.taskhash, unihash)

    async def _get_outhash(self, _caller: Caller, request: m.GetOuthash) -> Any:
        async with self._rows:
            return await self._store.get_outhash(
                request.method, request.outhash, request.taskhash, request.with_unihash
            )

    async def _open_stream(self, _caller: Caller, _request: object) -> Any:
        return "ok"

    async def _get_batch(self, caller: Caller, request: m.GetBatch) -> Any:
        unihashes: list[str | None] = []
        async for block in with_rests(streams.taskhash_blocks(request.method, request.taskhashes), 1):
            found = self._counters.looked_up(await lookup_block(self._store, block), caller.build).unihashes()
            unihashes += [None if unihash is None else unihash.hex() for unihash in found]
        return {"unihashes": unihashes}

    async def _exists_batch(self, _caller: Caller, request: m.ExistsBatch) -> Any:
        exists: list[bool] = []
        async for block in with_rests(streams.unihash_blocks(request.unihashes), 1):
            exists += map(bool, self._counters.looked_for(block.join(await self._store.exists(block.digests))))
        return {"exists": exists}

    async def _report(self, caller: Caller, request: Report) -> Any:
        (unihash,) = await self._reporting.store(caller, [request])
        return _mapping(request.method, request.taskhash, unihash)

    async def _report_batch(self, caller: Caller, request: m.ReportBatch) -> Any:
        unihashes = await self._reporting.store(caller, request.reports)
        return {"unihashes": [unihash.hex() for unihash in unihashes]}

    async def _report_equiv(self, caller: Caller, request: m.ReportEquiv) -> Any:
        unihash = await self._reporting.store_equivalence(caller, request)
        return _mapping(request.method, request.taskhash, unihash)

    async def _backfill_wait(self, _caller: Caller, _request: m.BackfillWait) -> Any:
        return {"tasks": await self._store.backfilled()}

    # ------------------------------------------------------------------------------------------ administration

    async def _import_batch(self, caller: Caller, request: ImportBatch) -> Any:
        if not isinstance(self._store, TakesImports):
            raise InvokeError("what keeps the hashes of this server takes no imports")
        if self._room.low:
            raise NoRoomError(self._room.refuse())
        if request.users:
            permissions.check(caller.identity, COMMANDS["new-user"])
        mappings = await self._store.take_mappings(request.mappings)
        rows = await self._store.take_rows(request.rows)
        rests = with_rests(request.users, USERS_AT_ONCE)
        users = [await self._users.take(user.username, user.token, user.permissions) async for user in rests]
        names = [user.username for user, answer in zip(request.users, users, strict=True) if answer == NEW]
        audit.record(caller, "import-batch", mappings=len(mappings), rows=len(rows), users=names)
        return {"mappings": mappings, "rows": rows, "users": users}

    async def _remove(self, caller: Caller, request: m.Remove) -> Any:
        count = await self._store.remove(request.where)
        audit.record(caller, "remove", where=request.where, rows=count)
        return {"count": count}

    async def _clean_unused(self, caller: Caller, request: m.CleanUnused) -> Any:
        count = await self._store.clean_unused(request.max_age_seconds)
        audit.record(caller, "clean-unused", max_age_seconds=request.max_age_seconds, rows=count)
        return {"count": count}

    async def _gc_mark(self, caller: Caller, request: m.GcMark) -> Any:
        (count,) = await self._store.gc_mark([(request.mark, request.where)])
        audit.record(caller, "gc-mark", mark=request.mark, where=request.where, rows=count)
        return {"count": count}

    async def _gc_status(self, _caller: Caller, _request: m.GcStatus) -> Any:
        status = await self._store.gc_status()
        return {"keep": status.keep, "remove": status.remove, "mark": status.mark}

    async def _gc_sweep(self, caller: Caller, request: m.GcSweep) -> Any:
        count = await self._store.gc_sweep(request.mark)
        audit.record(caller, "gc-sweep", mark=request.mark, rows=count)
        return {"count": count}

    async def _get_stats(self, _caller: Caller, _request: m.GetStats) -> Any:
        return {"requests": await self._whole.stats()}

    async def _reset_stats(self, _caller: Caller, _request: m.ResetStats) -> Any:
        return {"requests": await self._whole.reset_stats()}

    async def _get_db_usage(self, _caller: Caller, _request: m.GetDbUsage) -> Any:
        usage = await self._store.usage()
        return {"usage": {table: {"rows": rows} for table, rows in usage.items()}}

    async def _get_db_query_columns(self, _caller: Caller, _request: m.GetDbQueryColumns) -> Any:
        return {"columns": list(QUERY_COLUMNS)}

    # ------------------------------------------------------------------------------------------------- users

    async def _auth(self, caller: Caller, request: m.Auth) -> Any:
        # Nothing is awaited between the answer and `add`, so no change of the user falls in between.
        try:
            caller.identity, granted = await self._users.authenticate(request.username, request.token, caller)
        except InvokeError:
            self._counters.auth_failures += 1
            raise
        caller.login = request.username
        self._users.logged_in.add(caller)
        caller.identified()
        return {"result": True, "username": request.username, "permissions": granted}

    async def _become_user(self, caller: Caller, request: m.BecomeUser) -> Any:
        caller.identity = await self._users.become(request.username)
        self._users.logged_in.add(caller)
        caller.identified()
        audit.record(caller, "become-user", username=request.username)
        return _user(request.username, sorted(caller.identity.permissions))

    async def _refresh_token(self, caller: Caller, request: m.RefreshToken) -> Any:
        username = _named(caller, request.username)
        if request.lifetime is not None:
            permissions.check(caller.identity, COMMANDS["new-user"])  # nobody lengthens the own time
        self._users.guesses.ask_token(caller.identity.name, caller.group)
        token = await self._users.refresh_token(username, caller, request.lifetime)
        expiry = await self._expiry(username, request.lifetime)
        audit.record(caller, "refresh-token", username=username, **expiry)
        return {"username": username, "token": token, **expiry}

    async def _new_user(self, caller: Caller, request: m.NewUser) -> Any:
        wanted = permissions.parse(request.permissions)
        self._users.guesses.ask_token(caller.identity.name, caller.group)
        granted, token = await self._users.new(request.username, wanted, request.lifetime or 0)
        expiry = await self._expiry(request.username, request.lifetime)
        audit.record(caller, "new-user", username=request.username, permissions=granted, **expiry)
        return {**_user(request.username, granted), "token": token, **expiry}

    async def _expiry(self, username: str, lifetime: int | None) -> dict[str, str | None]:
        """``{"expires": time}`` for who said how long a token shall work: other answers are as the reference's."""
        return {} if lifetime is None else {"expires": await self._users.expiry(username)}

    async def _set_user_perms(self, caller: Caller, request: m.SetUserPerms) -> Any:
        granted = await self._users.set_permissions(request.username, permissions.parse(request.permissions))
        audit.record(caller, "set-user-perms", username=request.username, permissions=granted)
        return _user(request.username, granted)

    async def _get_user(self, caller: Caller, request: m.GetUser) -> Any:
        username = _named(caller, request.username)
        granted = await self._users.get(username)
        return None if granted is None else _user(username, granted)

    async def _get_all_users(self, _caller: Caller, _request: m.GetAllUsers) -> Any:
        return {"users": long_list(await self._users.all())}

    async def _list_users(self, _caller: Caller, _request: m.ListUsers) -> Any:
        return {"users": long_list(await self._users.described())}

    async def _delete_user(self, caller: Caller, request: m.DeleteUser) -> Any:
        username = _named(caller, request.username)
        await self._users.delete(username)
        audit.record(caller, "delete-user", username=username)
        return {"username": username}


def _mapping(method: str, taskhash: str, unihash: bytes) -> dict[str, str]:
    return {"taskhash": taskhash, "method": method, "unihash": unihash.hex()}


def _user(username: str, granted: list[str]) -> dict[str, Any]:
    return {"username": username, "permissions": granted}


def _named(caller: Caller, username: str | None) -> str:
    """The user that a request names, or means by naming none."""
    named = username if username is not None else caller.identity.username
    if named is None:
        raise InvokeError("no user is named, and this connection has not authenticated as one")
    return named
