"""What is taken for new without asking, and for how long not."""

import asyncpg
import pytest

from revisit_events.novelty import GROUPS_WITH_QUESTIONS, Novelty


async def was_asked(novelty: Novelty, *known: str) -> bool:
    """Takes a group of which some may be known; tells whether it was taken with questions at once."""
    tried = []

    async def as_new() -> None:
        tried.append("as new")
        if known:
            raise asyncpg.UniqueViolationError

    async def with_questions() -> None:
        tried.append("with questions")

    await novelty.take(as_new, with_questions, lambda _: bool(known))
    return tried == ["with questions"]


async def test_after_a_repeat_some_groups_are_asked_about() -> None:
    novelty = Novelty()
    assert not await was_asked(novelty)
    # Refuted, and taken with questions all the same.
    assert not await was_asked(novelty, "known")
    assert await was_asked(novelty)
    assert await was_asked(novelty, "known")
    asked = [await was_asked(novelty) for _ in range(GROUPS_WITH_QUESTIONS + 1)]
    assert asked == [True] * GROUPS_WITH_QUESTIONS + [False]


async def test_another_fault_says_nothing_of_repeats() -> None:
    novelty = Novelty()

    async def fails() -> None:
        raise asyncpg.DeadlockDetectedError

    with pytest.raises(asyncpg.DeadlockDetectedError):
        await novelty.take(fails, fails, bool)
    assert not await was_asked(novelty)
