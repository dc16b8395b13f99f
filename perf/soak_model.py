"""What a server must answer, as plainly as it can be said, while many act on it at one time.

Tasks of one outhash make a *group*. Whoever changes a group takes it first, so that changes of a group follow each
other, while those of others and all questions run beside them. A change that is under way leaves several answers
right: `Task.may` holds them all, and every task keeps the story of what was done with it.
"""

from __future__ import annotations

import random
import secrets
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

Answer = str | None
"""The unihash of a task, None when it has none."""
STORY = 40
"""Events of a task that are remembered."""
FORGOTTEN = 4000
"""Tasks that are gone and still asked for."""


class WrongAnswerError(Exception):
    """The server said what cannot be; the text tells the story."""


@dataclass(eq=False)
class Task:
    """A task, and what may be said of it."""

    taskhash: str
    group: Group
    siginfo: str
    may: tuple[Answer, ...] = (None,)
    changes: int = 0
    story: deque[str] = field(default_factory=lambda: deque(maxlen=STORY))

    @property
    def unihash(self) -> Answer:
        """Its unihash, when only one answer is right."""
        assert len(self.may) == 1
        return self.may[0]

    def row(self, method: str) -> dict[str, str]:
        """What a build reports."""
        return {
            "method": method,
            "taskhash": self.taskhash,
            "outhash": self.group.outhash,
            "unihash": self.taskhash,
            "PN": self.group.recipe,
            "owner": "soak",
            "outhash_siginfo": self.siginfo,
        }


@dataclass(eq=False)
class Group:
    """Tasks of one outhash that have rows, the oldest first."""

    outhash: str
    recipe: str
    tasks: list[Task] = field(default_factory=list)
    taken: bool = False

    def decides(self, task: Task) -> str:
        """The unihash that a report of this task gets."""
        if task.unihash is not None:
            return task.unihash
        others = (other.unihash for other in self.tasks if other is not task)
        return next((unihash for unihash in others if unihash is not None), task.taskhash)


class World:
    """All groups and tasks."""

    def __init__(self, seed: int, method: str = "soak") -> None:
        self.method = method
        self.dice = random.Random(seed)
        self.groups: list[Group] = []
        self.gone: deque[Task] = deque(maxlen=FORGOTTEN)
        self.began = time.monotonic()
        self.answers = 0
        """Answers that were checked."""

    def note(self, task: Task, text: str, *may: Answer) -> None:
        """Something happened to a task; from now on these answers are right."""
        task.story.append(f"{time.monotonic() - self.began:9.3f} s  {text}: {' or '.join(map(_short, may))}")
        task.may = may
        task.changes += 1

    def take(self, count: int) -> list[Group]:
        """Some groups that nobody changes, for whoever changes them now."""
        some = [group for group in self.dice.sample(self.groups, min(count, len(self.groups))) if not group.taken]
        for group in some:
            group.taken = True
        return some

    def begin_group(self) -> Group:
        """A new group, taken."""
        group = Group(secrets.token_hex(32), f"recipe-{self.dice.randrange(200)}", taken=True)
        self.groups.append(group)
        return group

    def leave(self, groups: Iterable[Group]) -> None:
        """They may be changed by others again; those without rows go."""
        for group in groups:
            group.taken = False
            if not group.tasks:
                self.groups.remove(group)

    def new_task(self, group: Group) -> Task:
        """A task that is not reported yet."""
        text = secrets.token_hex(self.dice.choice((20, 200, 1000)))
        return Task(secrets.token_hex(32), group, text)

    def drop(self, task: Task) -> None:
        """Its row is gone."""
        task.group.tasks.remove(task)
        self.gone.append(task)

    def tasks(self, count: int) -> list[Task]:
        """Some tasks, known and gone."""
        some: list[Task] = []
        for _ in range(count):
            group = self.dice.choice(self.groups) if self.groups else None
            if group is not None and group.tasks and self.dice.random() < 0.8:
                some.append(self.dice.choice(group.tasks))
            elif self.gone:
                some.append(self.dice.choice(self.gone))
        return some

    def check(self, task: Task, before: tuple[int, tuple[Answer, ...]], found: Answer, what: str) -> None:
        """Whether an answer may be, to what was asked when the task had had so many changes. WrongAnswerError."""
        self.answers += 1
        changes, may = before
        if found in may or found in task.may or task.changes > changes + 1:
            return
        raise WrongAnswerError(
            f"{time.monotonic() - self.began:.3f} s: {what} of {task.taskhash} is {_short(found)}, and may be"
            f" {' or '.join(map(_short, dict.fromkeys((*may, *task.may))))}\n" + story_of(task)
        )

    def fail(self, task: Task, text: str) -> WrongAnswerError:
        """What to raise for any other wrong answer about a task."""
        return WrongAnswerError(f"{time.monotonic() - self.began:.3f} s: {text}\n{story_of(task)}")


def story_of(task: Task) -> str:
    """All that was done with a task and with the others of its outhash, in order of each."""
    lines = [f"the story of task {task.taskhash}, outhash {task.group.outhash}:", *task.story]
    for other in task.group.tasks:
        if other is not task:
            lines += [f"of task {other.taskhash}, which shares the outhash:", *other.story]
    return "\n  ".join(lines)


def _short(answer: Answer) -> str:
    return "unknown" if answer is None else answer[:12]
