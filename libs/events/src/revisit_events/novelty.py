"""Whether events are taken for new without asking: until one is not, and then not for a while.

Nearly all are new, and inserting what is new is cheaper than being ready for what is not (ADR 0051). Who
repeats himself goes on doing so for a while: an import, a queue that is sent again, a consumer after a
restart; and each guess that fails is an error in the server's log.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from revisit_chassis.db import sqlstate_of

T = TypeVar("T")

UNIQUE_VIOLATION = "23505"
GROUPS_WITH_QUESTIONS = 20
"""So many groups of events after one that was not new are taken with questions."""


class Novelty:
    """What one taker of events expects of those that come."""

    def __init__(self) -> None:
        self._groups_with_questions = 0

    async def take(
        self,
        as_new: Callable[[], Awaitable[T]],
        with_questions: Callable[[], Awaitable[T]],
        has_repeats: Callable[[T], bool],
    ) -> T:
        """Takes a group of events as new, or with questions where that fails or repeats are expected.

        Args:
            as_new: Takes it in a transaction that a unique violation ends.
            with_questions: Takes it in one that bears repeats.
            has_repeats: Tells from what came of the questions whether some of it was there.
        """
        is_refuted = False
        if not self._groups_with_questions:
            try:
                return await as_new()
            except Exception as fault:
                is_refuted = sqlstate_of(fault) == UNIQUE_VIOLATION
                if not is_refuted:
                    raise
        taken = await with_questions()
        if is_refuted or has_repeats(taken):
            self._groups_with_questions = GROUPS_WITH_QUESTIONS
        elif self._groups_with_questions:
            self._groups_with_questions -= 1
        return taken
