"""What BitBake's signature code sees in place of hashserv's client.

Questions are answered from what the prefetch learned, else by the server. When there is no server a build goes on as if
the server knew nothing, which is what BitBake makes of it too; but it warns once, not once a wave, and keeps reports
for later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Callable

from shardhash_bitbake.client import Client, report_fields
from shardhash_bitbake.errors import InvokeError
from shardhash_bitbake.optimism import Answers, Question
from shardhash_bitbake.spool import Spool

_NO_UNIHASH = "0" * 64
"""A well-formed unihash that no task wants: BitBake leaves the task as it is."""


class View:
    """A client whose lookups and reports do not fail for want of a server. Refusals are InvokeError as ever."""

    def __init__(self, client: Client, answers: Answers, spool: Spool, warn: Callable[[str], None]) -> None:
        self._client = client
        self._answers = answers
        self._spool = spool
        self._warn = warn
        self.names: Mapping[str, str] = {}
        """PN and task of the report that follows, if the server shall know them."""
        self.left = 0
        """Questions that were not among the answers."""

    def get_unihash(self, method: str, taskhash: str) -> str | None:
        """The unihash of a taskhash, or None."""
        return self.get_unihash_batch([(method, taskhash)])[0]

    def get_unihash_batch(self, args: Iterable[Question]) -> Sequence[str | None]:
        """The unihash of each (method, taskhash), or None."""
        questions = list(args)
        open_questions = [question for question in questions if question not in self._answers]
        if not open_questions:
            return [self._answers[question] for question in questions]
        self.left += len(open_questions)
        found: dict[Question, str | None] = {}
        try:
            found.update(zip(open_questions, self._client.get_unihash_batch(open_questions)))
        except ConnectionError as error:
            self._warn(str(error))
        return [self._answers.get(question) or found.get(question) for question in questions]

    def get_from_server(self, questions: Sequence[Question]) -> Sequence[str | None]:
        """The same, whatever was learned before. Raises ConnectionError."""
        return self._client.get_unihash_batch(questions)

    def report_unihash(
        self, taskhash: str, method: str, outhash: str, unihash: str, extra: Mapping[str, Any] | None = None
    ) -> Any:
        """Report a task's output; without a server the report is kept and the task's own unihash is in force."""
        extra = {**self.names, **(extra or {})}
        try:
            return self._client.report_unihash(taskhash, method, outhash, unihash, extra)
        except ConnectionError as error:
            self._spool.add(report_fields(taskhash, method, outhash, unihash, extra))
            self._warn(str(error))
            return {"taskhash": taskhash, "method": method, "unihash": unihash}

    def report_unihash_equiv(
        self, taskhash: str, method: str, unihash: str, extra: Mapping[str, Any] | None = None
    ) -> Any:
        """Report that a taskhash has this unihash."""
        try:
            return self._client.report_unihash_equiv(taskhash, method, unihash, extra)
        except ConnectionError as error:
            self._warn(str(error))
            return {"taskhash": taskhash, "method": method, "unihash": _NO_UNIHASH}

    # BitBake 2.8 asks like this when BB_HASHSERVE_MAX_PARALLEL is set.

    def get_unihashes(self, queries: Mapping[Any, Question]) -> dict[Any, str | None]:
        """The unihash for each key, whose value is (method, taskhash)."""
        return dict(zip(queries, self.get_unihash_batch(queries.values())))

    def unihashes_exist(self, queries: Mapping[Any, str]) -> dict[Any, bool]:
        """Whether the unihash of each key exists."""
        return dict(zip(queries, self._client.unihash_exists_batch(queries.values())))

    def send_kept_reports(self) -> int:
        """Send what earlier tasks and builds could not; the number of reports. Failing is no news here."""
        try:
            return self._spool.send(self._client.report_batch)
        except ConnectionError:
            return 0
        except InvokeError as error:
            self._spool.drop()
            self._warn(f"the server refuses reports that were kept for it, and they are dropped: {error}")
            return 0
        except OSError as error:
            self._warn(f"reports that were kept for the server cannot be read: {error}")
            return 0

    def __getattr__(self, name: str) -> Any:
        """The other methods, as the client has them."""
        return getattr(self._client, name)
