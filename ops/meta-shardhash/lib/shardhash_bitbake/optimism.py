"""Optimistic hashing: all hashes of a build with a handful of questions instead of one a wave. Pure.

A task's hash depends on the unihashes of its dependencies, which only the server knows; so BitBake asks wave by wave.
Here each unihash that is not known is guessed, all hashes are computed on the guesses, and everything that came up is
asked at once. Where an answer differs from its guess the dependents are computed again, which brings new questions. It
ends because the graph has no circle. Nothing that is computed here reaches BitBake: it gets the answers only, and a
wrong guess, or a formula that BitBake changes one day, costs a question.

The guess, from the best to the last:

1. The task has the hash that it had in an earlier build, here or elsewhere: the unihash that it had there.
2. The server does not know the hash of a task that it depends on, and that hash is new: nobody has built it yet. So
   nobody has built this task either, and it has its own hash.
3. The server knows all hashes with which the task was ever reported, and this is none of them: as in 2.
4. The unihash that the task had in an earlier build, as long as answers for new hashes mostly agree with such guesses.
5. The task's own hash.

What earlier builds had is in a table of ours; where that says nothing, the server may be asked once, before all else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Callable, NamedTuple

Question = tuple[str, str]
"""Method and taskhash."""
Answers = dict[Question, "str | None"]
Ask = Callable[[list[Question]], Sequence["str | None"]]

Variants = Sequence[Question]
"""(taskhash, unihash) with which a task was reported, newest first."""
Guessed = tuple[Variants, bool]
"""The variants of a task, and whether these are all that ever were."""
Guess = Callable[[list[int]], Sequence[Guessed]]
"""Takes places of tasks."""

ROUND_LIMIT = 24
QUESTION_FACTOR = 8
QUESTION_FLOOR = 1000
"""Most rounds, and most questions in all: so many times those of the first round, and this many in any case."""


class Task(NamedTuple):
    """What the hash of a task is made of, and what is known of its unihash without asking."""

    head: str
    """What the hashed text begins with, before the unihashes of the dependencies."""
    dependencies: Sequence[int]
    """Places of the dependencies in the list of tasks, in the order in which they are hashed; all of them before it."""
    tail: str
    """What the text ends with."""
    method: str | None
    """The method to ask by; None if BitBake does not ask for this task."""
    locked: str | None = None
    """The hash that the task is locked to, which its dependents see."""
    known: Sequence[tuple[str, str]] = ()
    """(taskhash, unihash) that hold without asking, if the hash is this taskhash."""
    always: tuple[str, str] | None = None
    """The same, for a task for which BitBake does not ask as well."""
    previous: tuple[str, str] | None = None
    """The taskhash and unihash that it had in an earlier build."""


class Outcome(NamedTuple):
    """How a prefetch went."""

    rounds: int
    questions: int
    complete: bool
    """Whether every question was asked; else a limit ended it."""


class Optimist:
    """Computes all hashes of `tasks` and keeps what was answered in `answers`."""

    def __init__(self, tasks: Sequence[Task], answers: Answers) -> None:
        count = len(tasks)
        self._tasks = tasks
        self._answers = answers
        self._hashes = [""] * count
        self._unihashes = [""] * count
        self._fresh = bytearray(count)
        """Whether a task, or one that it depends on, has a hash that nobody has built."""
        self._any_fresh = False
        self._stale = bytearray(b"\1") * count
        self._dependents: list[list[int]] = [[] for _ in tasks]
        for place, task in enumerate(tasks):
            for dependency in task.dependencies:
                self._dependents[dependency].append(place)
        self._earlier: list[Variants] = [() if task.previous is None else (task.previous,) for task in tasks]
        self._certain: list[Variants] = [
            (() if task.always is None else (task.always,)) + (() if task.method is None else (*task.known,))
            for task in tasks
        ]
        self._all_known = bytearray(count)
        """Whether the variants of a task in `_earlier` are all that ever were."""
        self._trust = 0
        """How many more answers for new hashes were the previous unihash than were not."""

    def run(self, ask: Ask, rounds: int = ROUND_LIMIT, guess: Guess | None = None) -> Outcome:
        """Ask until nothing is left to ask, or a limit is reached. What is raised in asking goes on; answers stay."""
        total = limit = 0
        asked = self._settle()
        if guess is not None:
            asked = self._take_guesses(asked, guess)
        for number in range(rounds):
            questions = list(dict.fromkeys(question for _, question in asked))
            if not questions:
                return Outcome(number, total, complete=True)
            limit = limit or max(QUESTION_FACTOR * len(questions), QUESTION_FLOOR)
            if total + len(questions) > limit:
                return Outcome(number, total, complete=False)
            total += len(questions)
            self._answers.update(zip(questions, ask(questions)))
            self._judge(asked)
            asked = self._settle()
        return Outcome(rounds, total, complete=not asked)

    def _take_guesses(self, asked: list[tuple[int, Question]], guess: Guess) -> list[tuple[int, Question]]:
        """Have the tasks guessed whose hash is not that of an earlier build, and all that depends on one of them.

        Takes the open questions, and returns those that are open then.
        """
        unsure = bytearray(len(self._tasks))
        for place, (_, taskhash) in asked:
            unsure[place] = self._as_before(place, taskhash) is None
        for place, task in enumerate(self._tasks):
            if not unsure[place] and any(unsure[dependency] for dependency in task.dependencies):
                unsure[place] = 1
        places = [place for place, task in enumerate(self._tasks) if unsure[place] and task.method is not None]
        found = guess(places) if places else ()
        for place, (variants, all_known) in zip(places, found):
            self._earlier[place] = (*self._earlier[place], *variants)
            self._all_known[place] = bool(variants) and all_known
        if not any(variants for variants, _ in found):
            return asked
        self._stale = unsure
        return [entry for entry in asked if not unsure[entry[0]]] + self._settle()

    def _as_before(self, place: int, taskhash: str) -> str | None:
        """The unihash that a task had when it had this hash."""
        for known, unihash in self._earlier[place]:
            if known == taskhash:
                return unihash
        return None

    def unihashes(self) -> list[str]:
        """The unihash of each task, guessed where it is not known."""
        return list(self._unihashes)

    def hashes(self) -> list[str]:
        """The taskhash of each task, on these unihashes."""
        return list(self._hashes)

    def _settle(self) -> list[tuple[int, Question]]:
        """Compute what is stale, dependencies first; the tasks with a question that has no answer, and it."""
        asked: list[tuple[int, Question]] = []
        stale = self._stale
        place = stale.find(1)
        while place >= 0:
            stale[place] = 0
            question = self._compute(place)
            if question is not None:
                asked.append((place, question))
            place = stale.find(1, place + 1)
        return asked

    def _compute(self, place: int) -> Question | None:
        """Compute one task, about 2 us; the question that it raises, if that has no answer yet."""
        task, unihashes = self._tasks[place], self._unihashes
        text = task.head + "".join([unihashes[dependency] for dependency in task.dependencies]) + task.tail
        taskhash = hashlib.sha256(text.encode()).hexdigest()
        inherited = self._any_fresh and any(self._fresh[dependency] for dependency in task.dependencies)
        unihash, fresh, question = self._find(place, taskhash, inherited)
        fresh = fresh and task.locked is None
        self._hashes[place] = taskhash
        if fresh != self._fresh[place]:
            self._fresh[place] = fresh
            self._any_fresh = self._any_fresh or fresh
        unihash = unihash if task.locked is None else task.locked
        if unihash != unihashes[place]:
            unihashes[place] = unihash
            for dependent in self._dependents[place]:
                self._stale[dependent] = 1
        return question

    def _find(self, place: int, taskhash: str, inherited: bool) -> tuple[str, bool, Question | None]:
        """The unihash of a task that has this hash, whether nobody has built it, and the open question."""
        task = self._tasks[place]
        for known, unihash in self._certain[place]:
            if known == taskhash:
                return unihash, False, None
        if task.method is None:
            return taskhash, inherited, None
        question = (task.method, taskhash)
        earlier = self._earlier[place]
        before = self._as_before(place, taskhash)
        changed = bool(earlier) and before is None
        if question in self._answers:
            answer = self._answers[question]
            return answer or taskhash, answer is None and (inherited or changed), None
        if before is not None:
            return before, False, question
        if changed and not self._all_known[place] and self._trust >= 0 and not inherited:
            return earlier[0][1], False, question
        return taskhash, inherited or bool(self._all_known[place]), question

    def _judge(self, asked: Sequence[tuple[int, Question]]) -> None:
        """Mark what answers overturned, and learn how good previous unihashes are as guesses."""
        for place, question in asked:
            answer = self._answers[question]
            earlier = self._earlier[place]
            changed = bool(earlier) and self._as_before(place, question[1]) is None
            if changed:
                self._trust += 1 if answer == earlier[0][1] else -1
            if (answer or question[1]) != self._unihashes[place] or (changed and answer is None):
                self._stale[place] = 1
