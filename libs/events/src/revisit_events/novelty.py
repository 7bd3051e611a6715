"""Whether events are taken for new without asking: until one is not, and then not for a while.

Nearly all are new, and inserting what is new is cheaper than being ready for what is not (ADR 0051). Who
repeats himself goes on doing so for a while: an import, a queue that is sent again, a consumer after a
restart; and each guess that fails is an error in the server's log.
"""

from revisit_chassis.db import sqlstate_of

UNIQUE_VIOLATION = "23505"
GROUPS_WITH_QUESTIONS = 20
"""So many groups of events after one that was not new are taken with questions."""


class Novelty:
    """What one taker of events expects of those that come."""

    def __init__(self) -> None:
        self._groups_with_questions = 0

    @property
    def is_expected(self) -> bool:
        """Whether the next group is taken for new."""
        return not self._groups_with_questions

    def is_refuted_by(self, fault: Exception) -> bool:
        """Tells whether a group failed because something of it was there; the next ones are asked about.

        Args:
            fault: What it failed with.
        """
        if sqlstate_of(fault) != UNIQUE_VIOLATION:
            return False
        self._groups_with_questions = GROUPS_WITH_QUESTIONS
        return True

    def was_asked(self, *, found_repeats: bool) -> None:
        """Notes what came of a group that was taken with questions.

        Args:
            found_repeats: Whether some of it was there, or it refuted the guess before.
        """
        if found_repeats:
            self._groups_with_questions = GROUPS_WITH_QUESTIONS
        elif self._groups_with_questions:
            self._groups_with_questions -= 1
