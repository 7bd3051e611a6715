"""What a command may be refused for; `booking.api.problems` maps each to a status and a title."""

from datetime import datetime
from uuid import UUID

from revisit_chassis.problem import DomainError


class NotFound(DomainError):
    """Nothing of that id exists in this clinic."""

    slug = "not-found"

    def __init__(self, noun: str) -> None:
        super().__init__(f"No such {noun} in this clinic.")


class IllegalMove(DomainError):
    """The appointment's state does not allow the command."""

    slug = "illegal-move"

    def __init__(self, move: str, status: str | None) -> None:
        super().__init__(f"An appointment that is {status or 'not booked yet'} cannot {move}.")


class AlreadyExists(DomainError):
    """The id is taken by another record."""

    slug = "already-exists"

    def __init__(self, noun: str, taken_id: UUID) -> None:
        super().__init__(f"There is already a {noun} {taken_id}.")


class NotStartedYet(DomainError):
    """Nobody can miss an appointment before it starts."""

    slug = "not-started-yet"

    def __init__(self, starts_at: datetime) -> None:
        super().__init__(f"The appointment starts at {starts_at.isoformat()}.")


class InvalidSchedule(DomainError):
    """An appointment ends after it starts."""

    slug = "invalid-schedule"

    def __init__(self) -> None:
        super().__init__("ends_at must be later than starts_at.")


class InvalidVisit(DomainError):
    """Outcome, referral and times of a visit contradict each other."""

    slug = "invalid-visit"


class PatientErased(DomainError):
    """The patient was erased; an erased id is never used again."""

    slug = "patient-erased"

    def __init__(self) -> None:
        super().__init__("The patient was erased. Register the person under a new identifier.")
