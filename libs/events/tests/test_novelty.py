"""What is taken for new without asking, and for how long not."""

import asyncpg

from revisit_events.novelty import GROUPS_WITH_QUESTIONS, Novelty


def test_after_a_repeat_some_groups_are_asked_about() -> None:
    novelty = Novelty()
    assert novelty.is_expected
    assert novelty.is_refuted_by(asyncpg.UniqueViolationError())
    for _ in range(GROUPS_WITH_QUESTIONS - 1):
        novelty.was_asked(found_repeats=False)
        assert not novelty.is_expected
    novelty.was_asked(found_repeats=True)
    for _ in range(GROUPS_WITH_QUESTIONS):
        assert not novelty.is_expected
        novelty.was_asked(found_repeats=False)
    assert novelty.is_expected


def test_another_fault_says_nothing_of_repeats() -> None:
    novelty = Novelty()
    assert not novelty.is_refuted_by(asyncpg.DeadlockDetectedError())
    assert not novelty.is_refuted_by(ConnectionError())
    assert novelty.is_expected
