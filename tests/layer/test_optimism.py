"""Optimistic hashing by itself: the same hashes as one by one, in few rounds."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardhash_bitbake import optimism
from shardhash_bitbake.optimism import Answers, Optimist, Question, Task
from tests.layer.builds import Answer, digest, random_answers


def hash_of(task: Task, unihashes: Sequence[str]) -> str:
    text = task.head + "".join(unihashes[at] for at in task.dependencies) + task.tail
    return hashlib.sha256(text.encode()).hexdigest()


def one_by_one(tasks: Sequence[Task], answer: Answer) -> list[str]:
    """The unihashes, computed as plainly as can be."""
    unihashes: list[str] = []
    for task in tasks:
        taskhash = hash_of(task, unihashes)
        always, known = dict([task.always] if task.always else []), dict(task.known)
        if task.locked:
            unihash: str | None = task.locked
        elif taskhash in always:
            unihash = always[taskhash]
        elif task.method is None:
            unihash = taskhash
        else:
            unihash = known.get(taskhash) or answer(task.method, taskhash) or taskhash
        unihashes.append(unihash or "")
    return unihashes


def random_tasks(chance: random.Random, answer: Answer) -> list[Task]:
    tasks: list[Task] = []
    unihashes: list[str] = []
    for at in range(chance.randint(0, 30)):
        task = Task(
            digest("head", at),
            [other for other in range(at) if chance.random() < 0.2],
            chance.choice(["", "tail"]),
            chance.choice(["m", "m", "n", None]),
        )
        true = hash_of(task, unihashes)
        known = chance.choice([true, digest("stale", at)]), digest("known", at)
        task = task._replace(
            locked=digest("locked", at) if chance.random() < 0.1 else None,
            known=[known] if chance.random() < 0.2 else [],
            always=known if chance.random() < 0.1 else None,
            previous=chance.choice([None, (true, digest("other", true)), (digest("old", at), digest("previous", at))]),
        )
        tasks.append(task)
        unihashes = one_by_one(tasks, answer)
    return tasks


def count(answer: Answer, asked: list[list[Question]]) -> Callable[[list[Question]], list[str | None]]:
    def ask(questions: list[Question]) -> list[str | None]:
        asked.append(questions)
        return [answer(*question) for question in questions]

    return ask


def random_guesses(chance: random.Random, optimist: Optimist) -> optimism.Guess:
    """Guesses that fit, or do not, for some tasks or for all, and claim to be everything."""

    def guess(places: list[int]) -> list[tuple[list[Question], bool]]:
        variants = [
            [
                (chance.choice([optimist.hashes()[at], digest("old", at)]), digest("guess", at, number))
                for number in range(chance.randint(0, 4))
            ]
            for at in places
        ]
        return [(found, chance.random() < 0.5) for found in variants][: chance.choice([0, len(places), len(places)])]

    return guess


@given(st.randoms(use_true_random=False))
def test_the_hashes_are_those_of_one_by_one(chance: random.Random) -> None:
    answer = random_answers(chance)
    tasks = random_tasks(chance, answer)
    asked: list[list[Question]] = []
    optimist = Optimist(tasks, {})
    guess = random_guesses(chance, optimist) if chance.random() < 0.7 else None
    outcome = optimist.run(count(answer, asked), rounds=100, guess=guess)
    assert outcome.complete
    assert optimist.unihashes() == one_by_one(tasks, answer)
    questions = [question for batch in asked for question in batch]
    assert len(questions) == len(set(questions)) == outcome.questions
    assert outcome.rounds == len(asked)


def equivalent(method: str, taskhash: str) -> str:
    """A server where no task has its own hash for a unihash."""
    return digest("other", taskhash)


def no_previous(place: int) -> None:
    """There was no earlier build."""


def as_before(unihashes: Sequence[str]) -> Callable[[int], tuple[str, str]]:
    """What the tasks of `layers` had when these were their unihashes."""
    hashes = [hash_of(task, unihashes) for task in layers(20, 5)]
    return lambda at: (hashes[at], unihashes[at])


def layers(depth: int, width: int, previous: Callable[[int], tuple[str, str] | None] = no_previous) -> list[Task]:
    """Tasks of which each depends on all of the layer before it."""
    return [
        Task(
            digest("head", at),
            range((at // width - 1) * width, at // width * width) if at >= width else (),
            "",
            "m",
            previous=previous(at),
        )
        for at in range(depth * width)
    ]


def rounds(tasks: Sequence[Task], answer: Answer) -> list[int]:
    """The size of each round."""
    asked: list[list[Question]] = []
    assert Optimist(tasks, {}).run(count(answer, asked)).complete
    return [len(batch) for batch in asked]


@pytest.mark.parametrize("answer", [lambda m, h: None, lambda m, h: h], ids=["unknown", "own"])
def test_one_round_where_unihashes_are_the_own_hashes(answer: Answer) -> None:
    assert rounds(layers(30, 5), answer) == [150]


def test_one_round_where_the_unihashes_are_those_of_earlier_builds() -> None:
    before = one_by_one(layers(20, 5), equivalent)
    assert rounds(layers(20, 5, as_before(before)), equivalent) == [100]


def test_two_rounds_where_nobody_has_built_a_change() -> None:
    """All tasks have other unihashes than hashes; then the first layer changes, and so does all that depends on it."""
    tasks = layers(20, 5)
    before = one_by_one(tasks, equivalent)
    built = {hash_of(task, before) for task in tasks}
    changed = [
        task._replace(head="changed") if at == 0 else task for at, task in enumerate(layers(20, 5, as_before(before)))
    ]
    assert len(rounds(changed, lambda method, taskhash: digest("other", taskhash) if taskhash in built else None)) == 2


def test_a_change_whose_output_stayed_the_same_overturns_nothing() -> None:
    tasks = layers(20, 5)
    before = one_by_one(tasks, equivalent)
    changed = [
        task._replace(head="changed") if at == 0 else task for at, task in enumerate(layers(20, 5, as_before(before)))
    ]
    new = hash_of(changed[0], [])
    assert rounds(changed, lambda method, taskhash: before[0] if taskhash == new else equivalent(method, taskhash)) == [
        100
    ]


def test_limits() -> None:
    """Equivalence everywhere and nothing to guess from: a round a layer, until a limit ends it."""
    tasks = layers(200, 20)
    asked: list[list[Question]] = []
    outcome = Optimist(tasks, {}).run(count(equivalent, asked))
    assert not outcome.complete
    assert outcome.questions == sum(map(len, asked)) <= optimism.QUESTION_FACTOR * len(tasks)
    assert len(asked) <= optimism.ROUND_LIMIT
    assert not Optimist(tasks[:100], {}).run(count(equivalent, []), rounds=2).complete


def test_answers_stay_when_asking_fails() -> None:
    tasks, answers = layers(10, 5), Answers()

    def ask(questions: list[Question]) -> list[str | None]:
        if answers:
            raise ConnectionError
        return [digest("other", taskhash) for _, taskhash in questions]

    with pytest.raises(ConnectionError):
        Optimist(tasks, answers).run(ask)
    assert len(answers) == 50


def test_one_round_with_guesses_of_the_server() -> None:
    """Nothing is known here; elsewhere all tasks were built, and have other unihashes than hashes."""
    tasks = layers(20, 5)
    unihashes = one_by_one(tasks, equivalent)
    known = [(hash_of(task, unihashes), unihash) for task, unihash in zip(tasks, unihashes, strict=True)]
    other = (digest("machine"), digest("of another kind"))
    asked: list[list[Question]] = []
    guessed: list[list[int]] = []

    def guess(places: list[int]) -> list[tuple[list[Question], bool]]:
        guessed.append(places)
        return [([other, known[place]], True) for place in places]

    assert Optimist(tasks, {}).run(count(equivalent, asked), guess=guess).complete
    assert guessed == [[*range(100)]]
    assert [len(batch) for batch in asked] == [100]


def test_only_what_changed_is_guessed() -> None:
    """Nobody asks for guesses where the table of earlier builds has the hash; all that depends on a change may."""
    before = one_by_one(layers(20, 5), equivalent)
    tasks = layers(20, 5, as_before(before))
    changed = [task._replace(head="changed") if at == 50 else task for at, task in enumerate(tasks)]
    after = one_by_one(changed, equivalent)
    guessed: list[list[int]] = []

    def guess(places: list[int]) -> list[tuple[list[Question], bool]]:
        guessed.append(places)
        return [([(hash_of(changed[place], after), after[place])], True) for place in places]

    asked: list[list[Question]] = []
    assert Optimist(tasks, {}).run(count(equivalent, asked), guess=guess).complete
    assert (guessed, len(asked)) == ([], 1)
    assert Optimist(changed, {}).run(count(equivalent, asked), guess=guess).complete
    assert guessed == [[50, *range(55, 100)]]
    assert [len(batch) for batch in asked] == [100, 100]
