"""What every Store does, whatever keeps its hashes (stores/interface.py).

A test module makes a subclass of `StoreContract` for each Store and gives it a fixture ``store``: an empty Store.
What a Store does in addition (an upstream, durability, speed) has tests of its own.
"""

from __future__ import annotations

import asyncio
from itertools import count

import pytest

from shardhash.errors import InvokeError
from shardhash.stores.interface import Store
from shardhash.wire.hashes import to_digest, to_key
from shardhash.wire.rows import COLUMNS, JOINED_COLUMNS, Report

M = "oe.sstatesig.OEOuthashBasic"
OTHER = "another.method"
_numbers = count(1)


def new_hash(last: str = "") -> str:
    """64 hex digits that no other call gives; hashes are spread over all slots. `last` ends them."""
    number = next(_numbers)
    return f"{number * 37 % 256:02x}{number:062x}"[: 64 - len(last)] + last


def a_report(
    taskhash: str = "", outhash: str = "", unihash: str = "", method: str = M, *, pn: str | None = None
) -> Report:
    return Report(method, taskhash or new_hash(), outhash or new_hash(), unihash or new_hash(), PN=pn)


async def unihash_of(store: Store, taskhash: str, method: str = M) -> str | None:
    found = await store.lookup(method, to_digest(taskhash))
    (unihash,) = found.unihashes()
    return None if unihash is None else unihash.hex()


async def stored(store: Store, report: Report) -> str:
    (unihash,) = await store.report([report])
    return unihash.hex()


class StoreContract:
    """Tests of an empty Store, which the fixture ``store`` of a subclass gives."""

    # ------------------------------------------------------------------------------------------- questions

    async def test_an_empty_store_knows_nothing(self, store: Store) -> None:
        hashes = [new_hash() for _ in range(5)]
        digests = b"".join(map(to_digest, hashes))
        assert (await store.lookup(M, digests)).unihashes() == [None] * 5
        assert await store.lookup_keys(M, [to_key(hashes[0]), "text"]) == [None, None]
        assert await store.exists(digests) == bytes(5)
        assert await store.get_row(M, hashes[0]) is None
        assert await store.get_outhash(M, hashes[0], "", True) is None
        usage = await store.usage()
        assert (usage["unihashes_v3"], usage["outhashes_v2"]) == (0, 0)

    async def test_no_question_has_no_answer(self, store: Store) -> None:
        assert (await store.lookup(M, b"")).unihashes() == []
        assert await store.lookup_keys(M, []) == []
        assert await store.exists(b"") == b""
        assert await store.report([]) == []
        assert await store.gc_mark([]) == []

    async def test_answers_stand_in_the_order_asked(self, store: Store) -> None:
        reports = [a_report() for _ in range(40)]
        await store.report(reports)
        unknown = new_hash()
        asked = [report.taskhash for report in reversed(reports)] + [unknown, reports[3].taskhash]
        found = await store.lookup(M, b"".join(map(to_digest, asked)))
        expected = [to_digest(r.unihash) for r in reversed(reports)]
        assert found.unihashes() == [*expected, None, to_digest(reports[3].unihash)]
        assert await store.lookup_keys(M, [to_key(taskhash) for taskhash in asked]) == found.unihashes()
        exists = await store.exists(b"".join(to_digest(h) for h in (unknown, reports[0].unihash, reports[9].unihash)))
        assert exists == b"\0\1\1"

    async def test_methods_are_apart(self, store: Store) -> None:
        report = a_report()
        await stored(store, report)
        assert await unihash_of(store, report.taskhash, OTHER) is None
        assert await store.get_outhash(OTHER, report.outhash, "", True) is None
        assert await store.exists(to_digest(report.unihash)) == b"\1"

    async def test_hashes_of_any_form_are_kept(self, store: Store) -> None:
        for taskhash in ("f" * 40, "ÄÖ", "A" * 64, "x" * 1000):
            report = a_report(taskhash, "out-" + taskhash[:20])
            assert await stored(store, report) == report.unihash
            assert await store.lookup_keys(M, [to_key(taskhash)]) == [to_digest(report.unihash)]
            row = await store.get_row(M, taskhash)
            assert row is not None
            assert (row["taskhash"], row["outhash"]) == (taskhash, report.outhash)

    async def test_rows_have_all_columns(self, store: Store) -> None:
        report = Report(M, new_hash(), new_hash(), new_hash(), "me", "zlib", "1.3", "r0", "do_compile", "siginfo\n" * 9)
        await stored(store, report)
        row = await store.get_row(M, report.taskhash)
        assert row is not None
        assert set(row) == set(JOINED_COLUMNS)
        assert {name: row[name] for name in report._fields} == report._asdict()
        assert row["gc_mark"] == ""
        assert await store.get_outhash(M, report.outhash, "", True) == row
        alone = await store.get_outhash(M, report.outhash, "", False)
        assert alone == {name: row[name] for name in COLUMNS}

    # --------------------------------------------------------------------------------------------- reports

    async def test_a_mapping_is_written_once(self, store: Store) -> None:
        first = a_report()
        assert await stored(store, first) == first.unihash
        again = first._replace(unihash=new_hash(), outhash=new_hash())
        assert await stored(store, again) == first.unihash
        assert await stored(store, first._replace(unihash=new_hash())) == first.unihash
        assert (await store.report_equiv(M, first.taskhash, to_digest(new_hash()))).hex() == first.unihash
        assert await unihash_of(store, first.taskhash) == first.unihash

    async def test_the_oldest_of_an_outhash_gives_the_unihash(self, store: Store) -> None:
        outhash = new_hash()
        first, second, third = (a_report(outhash=outhash) for _ in range(3))
        assert [await stored(store, report) for report in (first, second, third)] == [first.unihash] * 3
        row = await store.get_outhash(M, outhash, "", True)
        assert row is not None
        assert row["taskhash"] == first.taskhash

    async def test_reports_of_one_batch_that_share_an_outhash_run_in_order(self, store: Store) -> None:
        outhash = new_hash()
        reports = [a_report(outhash=outhash) for _ in range(30)]
        assert await store.report(reports) == [to_digest(reports[0].unihash)] * 30

    async def test_concurrent_reports_of_an_outhash_agree(self, store: Store) -> None:
        outhash = new_hash()
        reports = [a_report(outhash=outhash) for _ in range(30)]
        answers = await asyncio.gather(*(stored(store, report) for report in reports))
        assert len(set(answers)) == 1
        assert answers[0] in {report.unihash for report in reports}

    async def test_many_rows_of_one_outhash(self, store: Store) -> None:
        outhash = new_hash()
        reports = [a_report(outhash=outhash) for _ in range(300)]
        await store.report(reports)
        await store.remove({"unihash": reports[0].unihash})
        late = a_report(outhash=outhash)
        assert await stored(store, late) == late.unihash, "no other row has a mapping any more"
        assert await stored(store, a_report(outhash=outhash)) == late.unihash

    async def test_a_report_whose_mapping_was_removed_stores_it_again(self, store: Store) -> None:
        report = a_report()
        await stored(store, report)
        await store.remove({"taskhash": report.taskhash, "unihash": report.unihash})
        await store.report_equiv(M, new_hash(), to_digest(report.unihash))
        again = report._replace(unihash=new_hash())
        assert await stored(store, again) == again.unihash

    async def test_an_outhash_without_local_equivalent_asks_otherwise(self, store: Store) -> None:
        asked: list[str] = []
        elsewhere = new_hash()

        async def otherwise(report: Report) -> bytes | None:
            asked.append(report.taskhash)
            return to_digest(elsewhere) if report.PN == "known elsewhere" else None

        known, unknown = a_report(pn="known elsewhere"), a_report()
        assert await store.report([known, unknown], otherwise) == [to_digest(elsewhere), to_digest(unknown.unihash)]
        assert sorted(asked) == sorted([known.taskhash, unknown.taskhash])
        follower = a_report(outhash=known.outhash)
        assert await store.report([follower], otherwise) == [to_digest(elsewhere)]
        assert len(asked) == 2, "a local equivalent was there"

    async def test_a_row_from_elsewhere_keeps_its_time(self, store: Store) -> None:
        local = a_report()
        await stored(store, local)
        created = "2001-05-05T10:00:00.000123+00:00"
        row = dict.fromkeys(COLUMNS) | {
            "method": M, "taskhash": new_hash(), "outhash": local.outhash, "created": created, "unihash": new_hash(),
        }  # fmt: skip
        await store.store_row(row)
        oldest = await store.get_outhash(M, local.outhash, "", True)
        assert oldest is not None
        assert (oldest["taskhash"], oldest["created"]) == (row["taskhash"], created)
        assert await unihash_of(store, row["taskhash"] or "") == row["unihash"]
        assert await stored(store, a_report(outhash=local.outhash)) == row["unihash"]

    async def test_a_report_that_nobody_waits_for_is_stored(self, store: Store) -> None:
        report = a_report()
        waiting = asyncio.ensure_future(store.report([report]))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert await stored(store, report._replace(unihash=new_hash())) == report.unihash

    # -------------------------------------------------------------------------------------------- removals

    async def test_remove_takes_each_tables_own_columns(self, store: Store) -> None:
        gone, kept = a_report(pn="gone"), a_report(pn="kept")
        await store.report([gone, kept])
        assert await store.remove({"PN": "gone"}) == 1, "the row; PN is no column of mappings"
        assert await store.get_outhash(M, gone.outhash, "", False) is None
        assert await unihash_of(store, gone.taskhash) == gone.unihash
        assert await store.remove({"taskhash": gone.taskhash}) == 1, "the mapping is left"
        assert await unihash_of(store, gone.taskhash) is None
        assert await store.remove({"taskhash": kept.taskhash}) == 2
        assert await store.remove({}) == 0
        assert await store.usage() | {"users": 0, "config": 0} == {
            "unihashes_v3": 0, "outhashes_v2": 0, "users": 0, "config": 0,
        }  # fmt: skip

    async def test_remove_by_an_outhash_takes_every_mapping_of_the_method(self, store: Store) -> None:
        """Surprising, but the reference's; scripts rely on it."""
        reports = [a_report() for _ in range(3)]
        other = a_report(method=OTHER)
        await store.report([*reports, other])
        assert await store.remove({"method": M, "outhash": reports[0].outhash}) == 4
        assert await unihash_of(store, reports[1].taskhash) is None
        assert await unihash_of(store, other.taskhash, OTHER) == other.unihash

    async def test_what_was_removed_gives_no_equivalence(self, store: Store) -> None:
        first = a_report()
        await stored(store, first)
        assert await store.remove({"taskhash": first.taskhash}) == 2
        later = a_report(outhash=first.outhash)
        assert await stored(store, later) == later.unihash
        assert await store.exists(to_digest(first.unihash)) == b"\0"

    async def test_clean_unused_takes_old_rows_without_a_mapping(self, store: Store) -> None:
        used, unused = a_report(), a_report()
        await store.report([used, unused])
        await store.remove({"unihash": unused.unihash})
        assert await store.clean_unused(0) == 1
        assert await store.get_outhash(M, unused.outhash, "", False) is None
        assert await store.get_outhash(M, used.outhash, "", False) is not None
        assert await store.clean_unused(0) == 0

    # ------------------------------------------------------------------------------------ garbage collection

    async def test_a_collection(self, store: Store) -> None:
        kept, gone = a_report(), a_report()
        await store.report([kept, gone])
        assert await store.gc_mark([("one", {"unihash": kept.unihash}), ("one", {"unihash": new_hash()})]) == [1, 0]
        during = a_report()
        await stored(store, during)
        status = await store.gc_status()
        assert (status.keep, status.remove, status.mark) == (2, 1, "one")
        with pytest.raises(InvokeError):
            await store.gc_sweep("two")
        assert await store.gc_sweep("one") == 1
        assert await unihash_of(store, gone.taskhash) is None
        assert await unihash_of(store, kept.taskhash) == kept.unihash
        assert await unihash_of(store, during.taskhash) == during.unihash
        assert (await store.gc_status()).mark is None
        with pytest.raises(InvokeError):
            await store.gc_sweep("one")

    async def test_without_a_mark_what_is_unmarked_is_kept(self, store: Store) -> None:
        first, second = a_report(), a_report()
        await store.report([first, second])
        status = await store.gc_status()
        assert (status.keep, status.remove, status.mark) == (2, 0, None)
        await store.gc_mark([("one", {"taskhash": first.taskhash})])
        await store.gc_sweep("one")
        status = await store.gc_status()
        assert (status.keep, status.remove, status.mark) == (0, 1, None), "the mark of the last collection stays"

    async def test_an_empty_where_marks_none(self, store: Store) -> None:
        await stored(store, a_report())
        assert await store.gc_mark([("one", {})]) == [0]
        status = await store.gc_status()
        assert (status.keep, status.remove, status.mark) == (0, 1, "one")

    # ---------------------------------------------------------------------------------------------- entries

    async def test_entries(self, store: Store) -> None:
        assert await store.get_entry("user", "ann") is None
        value = {"permissions": ["@read"], "deep": [1, None, {"x": "y"}]}
        await store.set_entry("user", "ann", value)
        await store.set_entry("user", "bob", {"permissions": []})
        await store.set_entry("config", "ann", 7)
        assert await store.get_entry("user", "ann") == value
        assert await store.list_entries("user") == {"ann": value, "bob": {"permissions": []}}
        usage = await store.usage()
        assert (usage["users"], usage["config"]) == (2, 1)
        await store.set_entry("user", "ann", None)
        assert await store.get_entry("user", "ann") is None
        await store.set_entry("user", "nobody", None)
        assert await store.list_entries("user") == {"bob": {"permissions": []}}
