"""What is taken for new without asking, and for how long not."""

import asyncpg

from revisit_events.novelty import GROUPS_WITH_QUESTIONS, Novelty


def groups_with_questions(novelty: Novelty) -> int:
    number = 0
    while not novelty.is_expected:
        novelty.was_asked(found_repeats=False)
        number += 1
    return number


def test_after_a_repeat_some_groups_are_asked_about() -> None:
    novelty = Novelty()
    assert groups_with_questions(novelty) == 0
    assert novelty.is_refuted_by(asyncpg.UniqueViolationError())
    novelty.was_asked(found_repeats=False)
    novelty.was_asked(found_repeats=True)
    assert groups_with_questions(novelty) == GROUPS_WITH_QUESTIONS


def test_another_fault_says_nothing_of_repeats() -> None:
    novelty = Novelty()
    assert not novelty.is_refuted_by(asyncpg.DeadlockDetectedError())
    assert not novelty.is_refuted_by(ConnectionError())
    assert groups_with_questions(novelty) == 0
