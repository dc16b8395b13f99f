"""Users, their tokens and permissions, on a Store that is a dict and a clock that goes when it is told to."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

from shardhash.coordinator import permissions, users
from shardhash.coordinator.callers import Caller
from shardhash.coordinator.limits import ServerLimits
from shardhash.coordinator.permissions import Identity, expand, parse, parse_anonymous
from shardhash.coordinator.users import FAILED_LOGIN_PAUSE, MOST_WAITING, TOKENS_A_SECOND, Users
from shardhash.errors import ConfigError, InvokeError
from tests.stores.plain_store import PlainStore

EVERYTHING = ["@all", "@db-admin", "@read", "@report", "@user-admin"]
READ = frozenset(("@read",))


class Clock:
    """Time passes only while somebody sleeps, and then at once."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store() -> PlainStore:
    return PlainStore()


@pytest.fixture
def people(store: PlainStore, clock: Clock) -> Users:
    return Users(store, clock, clock.sleep)


# ------------------------------------------------------------------------------------------------------------- logins


async def test_a_token_proves_who_one_is(people: Users, clock: Clock) -> None:
    granted, token = await people.new("builder", READ)
    assert (granted, len(token)) == (["@read"], 64)
    identity, shown = await people.authenticate("builder", token)
    assert (identity, shown) == (Identity("builder", READ), ["@read"])
    assert clock.slept == []


@pytest.mark.parametrize("name", ["builder", "nobody", ""])
@pytest.mark.parametrize("token", ["", "wrong", "0" * 64, "\ud800"])
async def test_a_wrong_login_waits(name: str, token: str, people: Users, clock: Clock) -> None:
    await people.new("builder", READ)
    with pytest.raises(InvokeError, match=f"^Unable to authenticate as {name}$"):
        await people.authenticate(name, token)
    assert clock.slept == [FAILED_LOGIN_PAUSE]


async def test_neither_token_nor_password_is_stored(people: Users, store: PlainStore) -> None:
    _, token = await people.new("builder", READ)
    await people.set_administrator("admin", "password")
    kept = json.dumps(list(store.entries.values()))
    assert token not in kept
    assert "password" not in kept
    entries = [store.entries["user", name] for name in ("builder", "admin")]
    assert [entry["scheme"] for entry in entries] == ["salted-sha256", "scrypt"]
    assert entries[0]["salt"] != entries[1]["salt"]


async def test_two_users_have_two_salts_and_tokens(people: Users, store: PlainStore) -> None:
    tokens = [(await people.new(name, READ))[1] for name in "ab"]
    salts = [store.entries["user", name]["salt"] for name in "ab"]
    assert len({*tokens}) == len({*salts}) == 2


def test_tokens_are_compared_in_constant_time() -> None:
    """No timing is measured; the one comparison there is must be the library's."""
    source = inspect.getsource(users.Users._matches)
    assert "compare_digest" in source
    assert "==" not in source.replace('entry["scheme"] == _PASSWORD', "")


# ------------------------------------------------------------------------------------------------------ administrator


async def test_the_administrator_of_the_settings(people: Users, store: PlainStore) -> None:
    await people.set_administrator("admin", "password")
    identity, shown = await people.authenticate("admin", "password")
    assert shown == ["@all"]
    assert sorted(identity.permissions) == EVERYTHING
    store.written.clear()
    await people.set_administrator("admin", "password")
    assert store.written == []  # nothing to change: a restart writes nothing
    await people.set_administrator("admin", "other")
    assert (await people.authenticate("admin", "other"))[1] == ["@all"]
    with pytest.raises(InvokeError):
        await people.authenticate("admin", "password")


async def test_passwords_are_hashed_one_at_a_time(people: Users, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of logins as the administrator would else take all processors from the builds."""
    await people.set_administrator("admin", "secret")
    under_way, most = 0, 0

    def watched(password: str, salt: bytes) -> bytes:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        digest = scrypt(password, salt)
        under_way -= 1
        return digest

    scrypt = users._scrypt
    monkeypatch.setattr(users, "_scrypt", watched)
    logins = (people.authenticate("admin", password) for password in ("secret", *"abcde"))
    outcomes = await asyncio.gather(*logins, return_exceptions=True)
    assert [isinstance(outcome, InvokeError) for outcome in outcomes] == [False] + [True] * 5
    assert most == 1


async def test_the_settings_make_an_administrator_once_for_a_password(
    people: Users, caplog: pytest.LogCaptureFixture
) -> None:
    """A restart must not bring back a password that was replaced, or a user that was deleted."""
    await people.set_administrator("admin", "password")
    token = await people.refresh_token("admin")
    await people.set_permissions("admin", READ)
    await people.set_administrator("admin", "password")
    assert (await people.authenticate("admin", token))[1] == ["@read"]
    await people.delete("admin")
    await people.set_administrator("admin", "password")
    assert await people.get("admin") is None
    assert "was deleted and is not made again" in caplog.text
    await people.set_administrator("admin", "another password")
    assert await people.get("admin") == EVERYTHING


async def test_a_user_who_becomes_an_administrator_is_told_of(people: Users, caplog: pytest.LogCaptureFixture) -> None:
    await people.new("builder", READ)
    await people.set_administrator("builder", "password")
    assert "the user builder, who had @read, becomes an administrator" in caplog.text


async def test_a_login_is_refused_if_the_user_is_made_anew_meanwhile(
    people: Users, store: PlainStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await people.set_administrator("admin", "password")
    before = store.entries["user", "admin"]
    entries = iter([before, before | {"id": "another"}])

    async def get_entry(_kind: str, _name: str) -> Any:
        return next(entries)

    monkeypatch.setattr(store, "get_entry", get_entry)
    with pytest.raises(InvokeError, match="Unable to authenticate"):
        await people.authenticate("admin", "password")


def caller_of(peer: str) -> tuple[Caller, list[str]]:
    reasons: list[str] = []
    caller = Caller(Identity(None, frozenset()), read_only=False, peer=peer)
    caller.revoke = reasons.append
    return caller, reasons


async def log_in(people: Users, caller: Caller, username: str, token: str) -> None:
    caller.identity, _ = await people.authenticate(username, token, caller)
    caller.login = username
    people.logged_in.add(caller)


async def test_open_connections_follow_their_user(people: Users) -> None:
    _, token = await people.new("builder", READ)
    (one, ended), (other, others) = caller_of("a:1"), caller_of("a:2")
    await log_in(people, one, "builder", token)
    await log_in(people, other, "builder", token)
    await people.set_permissions("builder", frozenset(("@report",)))
    assert one.identity == Identity("builder", frozenset(("@report",)))
    await people.refresh_token("builder", one)
    assert (ended, others) == ([], ["builder got a new token"])
    await people.delete("builder")
    assert ended == ["builder was deleted"]
    await people.new("builder", frozenset(("@all",)))
    assert one.identity.permissions == {"@report"}


async def test_who_acts_as_another_is_reached_by_changes_of_both(people: Users) -> None:
    _, token = await people.new("boss", frozenset(("@user-admin",)))
    await people.new("builder", READ)
    boss, ended = caller_of("a:1")
    await log_in(people, boss, "boss", token)
    boss.identity = await people.become("builder")
    people.logged_in.add(boss)
    await people.set_permissions("builder", frozenset(("@report",)))
    assert boss.identity.permissions == {"@report"}
    await people.set_permissions("boss", READ)
    assert len(ended) == 1
    await people.delete("boss")
    assert ended[1:] == ["boss was deleted"]


async def test_strangers_do_not_fill_the_queue_of_logins(people: Users) -> None:
    await people.set_administrator("admin", "password")
    order: list[str] = []

    async def log_in_from(peer: str, password: str, *, gone: bool = False) -> None:
        caller, _ = caller_of(peer)
        caller.gone = lambda: gone
        try:
            await people.authenticate("admin", password, caller)
        except InvokeError as error:
            order.append(f"{peer.partition(':')[0]}: {error}")
        else:
            order.append("in")

    strangers = [asyncio.create_task(log_in_from(f"stranger:{n}", "wrong", gone=n > 3)) for n in range(40)]
    await asyncio.sleep(0)
    await log_in_from("admins:1", "password")
    assert sum("Unable" in said for said in order) <= 2, "the admin waits for one of the strangers at most"
    await asyncio.gather(*strangers)
    assert sum("too many logins of this host wait" in said for said in order) == 40 - MOST_WAITING


async def test_refused_logins_do_not_keep_a_host_out_for_longer(people: Users, clock: Clock) -> None:
    await people.set_administrator("admin", "password")
    people.guesses.limits = ServerLimits(peer_logins=6)
    caller = Caller(Identity(None, frozenset()), read_only=False, peer="host:1")
    refusals = []
    for _ in range(20):
        with pytest.raises(InvokeError) as refusal:
            await people.authenticate("admin", "guess", caller)
        refusals.append("too many wrong logins from host" in str(refusal.value))
    assert refusals == [False] * 6 + [True] * 14
    with pytest.raises(InvokeError, match="--limit peer_logins=N"):
        await people.authenticate("admin", "password", caller)
    clock.now += 10
    assert (await people.authenticate("admin", "password", caller))[1] == ["@all"]
    assert clock.slept.count(FAILED_LOGIN_PAUSE) == 21, "each refusal has its pause"


async def test_who_leaves_after_a_wrong_login_is_not_kept_for_the_pause(people: Users, clock: Clock) -> None:
    caller, _ = caller_of("host:1")

    async def leave(pause: Coroutine[Any, Any, None]) -> None:
        pause.close()
        raise ConnectionResetError

    caller.while_here = leave
    with pytest.raises(InvokeError, match="Unable to authenticate"):
        await people.authenticate("nobody", "guess", caller)
    caller.let_go()
    with pytest.raises(InvokeError, match="Unable to authenticate"):
        await people.authenticate("nobody", "guess", caller)
    assert not clock.slept


async def test_many_new_tokens_of_one_user_delay_no_other_change(people: Users, clock: Clock) -> None:
    await people.new("builder", READ)
    waiting = [asyncio.create_task(people.refresh_token("builder")) for _ in range(MOST_WAITING)]
    await asyncio.sleep(0)
    await people.set_permissions("builder", frozenset(("@report",)))
    assert not all(task.done() for task in waiting)
    with pytest.raises(InvokeError, match="too many new tokens"):
        await people.refresh_token("builder")
    await asyncio.gather(*waiting)


async def test_a_token_replaces_the_administrators_password(people: Users, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        await people.set_administrator("admin", "password")
    await people.set_permissions("admin", READ | {"@db-admin", "@report"})
    await people.set_administrator("admin", "password")
    assert caplog.text == "", "the password works"
    await people.set_permissions("admin", frozenset(["@all"]))
    token = await people.refresh_token("admin")
    assert (await people.authenticate("admin", token))[1] == ["@all"]
    with pytest.raises(InvokeError):
        await people.authenticate("admin", "password")
    await people.set_administrator("admin", "password")
    assert "administrator admin got a token since, so the configured password is refused; use the token" in caplog.text
    await people.set_administrator("admin", "another password")
    assert (await people.authenticate("admin", "another password"))[1] == ["@all"]


# -------------------------------------------------------------------------------------------------------------- users


async def test_refresh_ends_the_old_token_and_keeps_permissions(people: Users) -> None:
    _, old = await people.new("builder", READ)
    new = await people.refresh_token("builder")
    assert (await people.authenticate("builder", new))[1] == ["@read"]
    with pytest.raises(InvokeError, match="Unable to authenticate"):
        await people.authenticate("builder", old)


async def test_permissions_are_replaced_and_the_token_stays(people: Users) -> None:
    _, token = await people.new("builder", READ)
    assert await people.set_permissions("builder", frozenset(("@report",))) == ["@report"]
    assert (await people.authenticate("builder", token))[0].permissions == {"@report"}


async def test_all_users_in_order(people: Users) -> None:
    for name in ("zoe", "adam"):
        await people.new(name, READ)
    assert await people.all() == [{"username": name, "permissions": ["@read"]} for name in ("adam", "zoe")]
    await people.delete("zoe")
    assert [user["username"] for user in await people.all()] == ["adam"]
    assert await people.get("zoe") is None
    await people.new("zoe", READ)


async def test_thousands_of_users_are_listed_in_parts(people: Users, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardhash.coordinator.users.AT_ONCE", 5)
    monkeypatch.setattr("shardhash.coordinator.token_life.AT_ONCE", 5)
    token = "sha256:aa:" + "ab" * 32
    names = [f"user{number:02}" for number in range(40)]
    for name in names:
        await people.take(name, token, ["@read"])
    for listing, rests in ((people.all, 7), (people.described, 14)):
        ticks = 0

        async def count() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        found = await listing()
        counting.cancel()
        assert set(names) <= {user["username"] for user in found}
        assert ticks >= rests


async def test_a_name_is_given_once(people: Users) -> None:
    await people.new("builder", READ)
    with pytest.raises(InvokeError, match=r"^Cannot create new user 'builder'$"):
        await people.new("builder", READ)


async def test_only_one_of_two_at_a_time_gets_a_name(people: Users) -> None:
    outcomes = await asyncio.gather(*(people.new("builder", READ) for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(outcome, InvokeError) for outcome in outcomes) == 4


@pytest.mark.parametrize("what", ["refresh_token", "delete", "set_permissions"])
async def test_nobody_cannot_be_changed(what: str, people: Users) -> None:
    arguments = ("nobody", READ) if what == "set_permissions" else ("nobody",)
    with pytest.raises(InvokeError, match=r"^No user named 'nobody' exists$"):
        await getattr(people, what)(*arguments)


async def test_become(people: Users) -> None:
    await people.new("builder", READ)
    assert await people.become("builder") == Identity("builder", READ)
    with pytest.raises(InvokeError, match=r"^User nobody doesn't exist$"):
        await people.become("nobody")


# --------------------------------------------------------------------------------------------------------------- rate


async def test_new_tokens_are_limited_over_all(people: Users, clock: Clock) -> None:
    """However they are asked for, each next one waits a tenth of a second longer."""
    await people.new("first", READ)
    assert clock.slept == []
    makes = [people.new(f"u{number}", READ) for number in range(5)]
    await asyncio.gather(*makes, *(people.refresh_token("first") for _ in range(5)))
    assert clock.slept == pytest.approx([number / TOKENS_A_SECOND for number in range(1, 11)])
    clock.slept.clear()
    clock.now += 2.0
    await people.refresh_token("first")
    assert clock.slept == []  # unused time is not saved up either:
    await people.refresh_token("first")
    assert clock.slept == pytest.approx([1 / TOKENS_A_SECOND])


async def test_refusals_cost_no_token(people: Users, clock: Clock) -> None:
    await people.new("builder", READ)
    for _ in range(20):
        with pytest.raises(InvokeError):
            await people.new("builder", READ)
        with pytest.raises(InvokeError):
            await people.refresh_token("nobody")
    assert clock.slept == []


# -------------------------------------------------------------------------------------------------------- permissions


def test_expanded_permissions() -> None:
    assert sorted(expand(["@all"])) == EVERYTHING
    assert expand(["@none"]) == frozenset()
    assert expand(["@none", "@read"]) == READ


@pytest.mark.parametrize("value", [None, "@read", {"@read": 1}, [1], [["@read"]]])
def test_permissions_must_be_a_list_of_names(value: object) -> None:
    with pytest.raises(InvokeError, match=r"^Unexpected type for permissions$"):
        parse(value)


def test_unknown_permissions() -> None:
    with pytest.raises(InvokeError, match=r"^Unknown permissions @a @b$"):
        parse(["@b", "@read", "@a"])


@pytest.mark.parametrize(
    "text", ["@read,@report", "@read @report", " @read+@report ", "@report, @read", "@read\t@report"]
)
def test_permissions_of_anonymous_users(text: str) -> None:
    assert parse_anonymous(text) == {"@read", "@report"}


def test_no_permissions_of_anonymous_users() -> None:
    assert parse_anonymous("@none") == parse_anonymous("") == frozenset()
    for text in ("@all", "@read @user-admin", "@fly"):
        with pytest.raises(ConfigError):
            parse_anonymous(text)


def test_every_grant_is_known() -> None:
    assert permissions.GRANTS | {"@all"} == frozenset(EVERYTHING)


# ------------------------------------------------------------------------------------------------------ life of tokens


class Calendar:
    """Seconds since 1970."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def calendar() -> Calendar:
    return Calendar()


@pytest.fixture
async def mortals(store: PlainStore, clock: Clock, calendar: Calendar) -> AsyncIterator[Users]:
    people = Users(store, clock, clock.sleep, calendar)
    yield people
    await people.close()


async def described(people: Users, name: str) -> dict[str, Any]:
    return next(user for user in await people.described() if user["username"] == name)


async def test_an_expired_token_is_refused_in_words(mortals: Users, clock: Clock, calendar: Calendar) -> None:
    _, token = await mortals.new("builder", READ, 60)
    calendar.now += 59
    await mortals.authenticate("builder", token)
    calendar.now += 1
    with pytest.raises(InvokeError, match=r"as builder: this token expired at 2027-01-15T08:01"):
        await mortals.authenticate("builder", token)
    assert clock.slept == [], "it was the right one: nobody guesses"
    with pytest.raises(InvokeError, match=r"^Unable to authenticate as builder$"):
        await mortals.authenticate("builder", "another")


async def test_a_new_token_works_as_long_as_the_one_before(mortals: Users, calendar: Calendar) -> None:
    await mortals.new("builder", READ, 60)
    calendar.now += 30
    token = await mortals.refresh_token("builder")
    assert (await described(mortals, "builder"))["expires"] == "2027-01-15T08:01:30+00:00"
    await mortals.set_permissions("builder", frozenset(("@report",)))
    assert (await described(mortals, "builder"))["expires"] == "2027-01-15T08:01:30+00:00"
    token = await mortals.refresh_token("builder", lifetime=0)
    calendar.now += 10**9
    await mortals.authenticate("builder", token)
    assert (await described(mortals, "builder"))["expires"] is None


async def test_the_end_of_a_token_ends_its_connections(mortals: Users, calendar: Calendar) -> None:
    """But not those that a certificate let in, nor those of who acts as the user."""
    reasons: list[str] = []
    ended = asyncio.Event()

    def end(reason: str) -> None:
        reasons.append(reason)
        ended.set()

    _, token = await mortals.new("builder", READ, 1)
    callers = []
    for login, certified in (("builder", None), ("builder", "builder"), ("admin", None)):
        identity, _ = await mortals.authenticate("builder", token)
        caller = Caller(identity, read_only=False, login=login, certified=certified, revoke=end)
        mortals.logged_in.add(caller)
        callers.append(caller)
    calendar.now += 1  # the timer asks it when a second has gone by
    await asyncio.wait_for(ended.wait(), 30)
    assert reasons == ["the token of builder expired"]


async def test_the_last_use_is_stored_once_an_hour(mortals: Users, store: PlainStore, calendar: Calendar) -> None:
    _, token = await mortals.new("builder", READ)
    assert (await described(mortals, "builder"))["used"] is None
    stored = []
    for pause in (0, 3599, 1):
        calendar.now += pause
        await mortals.authenticate("builder", token)
        await asyncio.sleep(0)
        stored.append(store.entries["use", "builder"]["used"] - 1_800_000_000)
    assert stored == [0, 0, 3600]
    calendar.now += 5
    await mortals.authenticate("builder", token)
    assert (await described(mortals, "builder"))["used"] == "2027-01-15T09:00:05+00:00"
    after_a_restart = Users(store)
    assert (await described(after_a_restart, "builder"))["used"] == "2027-01-15T09:00:00+00:00"
    await mortals.refresh_token("builder")
    assert (await described(mortals, "builder"))["used"] is None, "nobody used the new one"
    await mortals.delete("builder")
    assert ("use", "builder") not in store.entries


class LateStore(PlainStore):
    """A Store in which some writes take until they are let go on."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: dict[str, asyncio.Event] = {}

    async def set_entry(self, kind: str, name: str, value: Any) -> None:
        if kind in self.waits and value is not None:
            await self.waits[kind].wait()
        await super().set_entry(kind, name, value)


async def test_a_use_that_is_written_late_does_not_outlive_its_user(calendar: Calendar) -> None:
    store = LateStore()
    store.waits["use"] = asyncio.Event()
    people = Users(store, now=calendar)
    _, token = await people.new("builder", READ, 60)
    await people.authenticate("builder", token)
    await asyncio.sleep(0)  # its use is being written
    deletion = asyncio.create_task(people.delete("builder"))
    await asyncio.sleep(0)
    store.waits["use"].set()
    await deletion
    assert store.entries == {}
    await people.close()


async def test_a_use_that_is_not_begun_when_its_user_goes_is_never_written(store: PlainStore) -> None:
    people = Users(store)
    _, token = await people.new("builder", READ)
    await people.authenticate("builder", token)
    await people.delete("builder")
    await asyncio.sleep(0)
    await people.close()
    assert store.entries == {}


async def test_nothing_is_remembered_of_users_who_are_gone(store: PlainStore, calendar: Calendar) -> None:
    """Neither of those deleted here, nor of those deleted by another server, connected or not."""
    people = Users(store, now=calendar)
    for name in ("here", "elsewhere", "unheard", "connected"):
        _, token = await people.new(name, READ, 60)
        await people.authenticate(name, token)
    caller, reasons = caller_of("a:1")
    caller.login = "connected"
    people.logged_in.add(caller)
    await asyncio.sleep(0)
    await people.delete("here")
    for name in ("elsewhere", "connected"):
        await store.set_entry("user", name, None)
        await people.follow("user", name)
    assert reasons == ["connected was deleted"]
    assert set(people._logins) == set(people._life._uses) == set(people._life._timers) == {"unheard"}
    await people.follow("user", None)
    assert not people._logins
    await people.close()
