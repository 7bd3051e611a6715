"""Why an event, or a whole request, was not taken: the same shape alone and inside a batch."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Refusal:
    """A problem (RFC 9457) without anything of what was sent."""

    slug: str
    title: str
    status: int
    detail: str
    errors: tuple[tuple[str, str], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Gives the problem as it stands in an answer."""
        problem: dict[str, Any] = {
            "type": f"/problems/{self.slug}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors:
            problem["errors"] = [
                {"pointer": pointer, "detail": detail} for pointer, detail in self.errors
            ]
        return problem


class RefusedError(Exception):
    """An event or a request is refused.

    Args:
        refusal: Why.
    """

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.detail)
        self.refusal = refusal


def invalid_event(detail: str, errors: tuple[tuple[str, str], ...] = ()) -> Refusal:
    """An event that breaks its schema or the envelope's rules."""
    return Refusal("invalid-event", "The event does not match its schema", 422, detail, errors)


def invalid_attribute(name: str, rule: str) -> Refusal:
    """An event with a wrong CloudEvents attribute."""
    return invalid_event(f"{name} {rule}", ((f"/{name}", f"The attribute {rule}"),))


def unknown_type(accepted: tuple[str, ...]) -> Refusal:
    """An event of a type that is not taken here."""
    return Refusal(
        "unknown-event-type",
        "Events of this type are not taken here",
        422,
        f"type must be one of {', '.join(accepted)}",
        (("/type", "The attribute must be a type that this service takes"),),
    )


def unsupported_version(*, is_v03: bool) -> Refusal:
    """An event of another version of CloudEvents."""
    got = "CloudEvents 0.3 is not supported; " if is_v03 else ""
    return Refusal(
        "unsupported-specversion",
        "This version of CloudEvents is not supported",
        422,
        f'{got}specversion must be "1.0"',
        (("/specversion", 'The attribute must be "1.0"'),),
    )


def other_clinic() -> Refusal:
    """An event of another tenant than the caller's."""
    return Refusal(
        "other-clinic",
        "The event belongs to another clinic",
        403,
        "clinicid must be the clinic of the token, or left out",
        (("/clinicid", "The attribute must be the clinic of the token"),),
    )


def identity_conflict() -> Refusal:
    """The identity of an earlier event with another body."""
    return Refusal(
        "event-conflict",
        "This event was already taken with another body",
        409,
        "source and id identify an event for ever; a changed fact is a new event with a new id",
        (("/id", "The id was already used with another body"),),
    )


def not_stored() -> Refusal:
    """An event that failed while it was stored, for a reason of ours."""
    return Refusal(
        "internal-error",
        "The event could not be stored",
        500,
        "the event was not taken; it may be sent again",
    )


def too_large(detail: str) -> Refusal:
    """More than one request may hold."""
    return Refusal("too-large", "The request is too large", 413, detail)


def malformed(detail: str) -> Refusal:
    """A body that is not what its content type says."""
    return Refusal("malformed-body", "The body cannot be read", 400, detail)


def unsupported_media_type(detail: str) -> Refusal:
    """A content type that is none of the three modes."""
    return Refusal("unsupported-media-type", "The content type is not supported", 415, detail)
