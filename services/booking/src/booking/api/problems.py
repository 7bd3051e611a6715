"""Which status and title each refusal of the domain has over HTTP."""

from collections.abc import Mapping

from booking.domain import errors
from revisit_chassis.problem import DomainError

PROBLEMS: Mapping[type[DomainError], tuple[int, str]] = {
    errors.NotFound: (404, "Not found"),
    errors.IllegalMove: (409, "The appointment's state does not allow this"),
    errors.AlreadyExists: (409, "The id is taken"),
    errors.NotStartedYet: (409, "The appointment has not started yet"),
    errors.InvalidSchedule: (422, "The appointment would end before it starts"),
    errors.InvalidVisit: (422, "The visit contradicts itself"),
    errors.PatientErased: (409, "The patient was erased"),
}
