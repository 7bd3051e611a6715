"""The gate: the one place that decides whether a message may leave, as the last step before a provider.

Pure: it takes everything it judges as a value and gives a decision with every check it made, passed or
not, so that "why did this patient get this" has an answer for each message, sent or withheld. A refusal
for good outweighs a wait, a wait outweighs a pass.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from engagement.messages.domain import Channel, LegalClass
from engagement.messages.policy import ConsentRule, Policy
from engagement.messages.windows import local_day, next_opening, zone_of

ANSWERABLE = frozenset({"booked", "confirmed"})


class Verdict(StrEnum):
    """What the gate says; ordered by weight."""

    SEND = "send"
    WAIT = "wait"
    DROP = "drop"


_WEIGHT = {Verdict.SEND: 0, Verdict.WAIT: 1, Verdict.DROP: 2}


@dataclass(frozen=True, slots=True)
class Check:
    """One question the gate asked.

    Args:
        name: What was checked, such as `quiet_hours`.
        verdict: What this check alone would say.
        reason: Stable slug where it did not pass.
        detail: The facts it looked at; nothing personal.
        until: When it may pass, if that is known; None with a wait means "ask again later".
    """

    name: str
    verdict: Verdict
    detail: str
    reason: str | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The gate's answer: verdict, the reason that weighed most, the channel, and all checks."""

    verdict: Verdict
    reason: str | None
    channel: Channel | None
    until: datetime | None
    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True)
class AppointmentFact:
    """The appointment as it stands now; `starts_at` is None for a stub."""

    status: str
    starts_at: datetime | None


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything the gate judges, re-read in the transaction of the decision.

    Args:
        now: The moment at which the message is judged.
        journey: Key of the journey the message belongs to.
        legal_class: Legal class of its template.
        expires_at: First moment at which it makes no sense any more.
        time_zone: The patient's IANA zone, or the clinic's.
        policy: The clinic's limits.
        reachable: Channels for which the patient left an address.
        consent: What stands for (purpose, channel): `granted` or `refused`.
        is_erased: Whether the patient was erased.
        is_released: Whether a message of this class is more than is owed to the patient.
        pauses: Scopes paused in the clinic.
        sent_on_day: Capped messages this patient got on the local day of `now`.
        needs_appointment: Whether the message depends on an appointment.
        appointment: The appointment it depends on.
        planned_start: The start it was planned for.
        is_subject_theirs: Whether the visit it is about is (still) known as this patient's.
        is_contact_unreadable: Whether there is a contact block that cannot be opened now.
        is_contact_unheard: Whether no contact has come, and one sent before the message was planned
            may be on its way.
        called_by: The channel that may have delivered it already: only a repeat there is safe.
        is_feed_fresh: Whether the events of the last minute have been applied.
    """

    now: datetime
    journey: str
    legal_class: LegalClass
    expires_at: datetime
    time_zone: str
    policy: Policy
    reachable: frozenset[Channel]
    consent: Mapping[tuple[str, str], str]
    is_erased: bool = False
    is_released: bool = False
    pauses: frozenset[str] = frozenset()
    sent_on_day: int = 0
    needs_appointment: bool = False
    appointment: AppointmentFact | None = None
    planned_start: datetime | None = None
    is_subject_theirs: bool = True
    is_contact_unreadable: bool = False
    is_contact_unheard: bool = False
    called_by: Channel | None = None
    is_feed_fresh: bool = True


def decide(situation: Situation) -> Decision:
    """Judges one message.

    A wait that cannot end before the expiry is a refusal (`window_empty`): a message never waits
    for a moment at which it would make no sense.
    """
    channel = chosen_channel(situation)
    checks = tuple(_checks(situation, channel))
    worst = max(checks, key=lambda check: _WEIGHT[check.verdict])
    if worst.verdict is Verdict.SEND:
        return Decision(Verdict.SEND, None, channel, None, checks)
    if worst.verdict is Verdict.DROP:
        return Decision(Verdict.DROP, worst.reason, channel, None, checks)
    known = [check.until for check in checks if check.until is not None]
    until = max(known, default=None)
    if until is not None and until >= situation.expires_at:
        reason = "cap" if worst.name == "cap" else "window_empty"
        return Decision(Verdict.DROP, reason, channel, None, checks)
    unknown = any(c.verdict is Verdict.WAIT and c.until is None for c in checks)
    return Decision(Verdict.WAIT, worst.reason, channel, None if unknown else until, checks)


def chosen_channel(situation: Situation) -> Channel | None:
    """The first channel that reaches the patient and is allowed for the class.

    The one that was called already comes first, then e-mail before SMS.
    """
    for channel in sorted(Channel, key=lambda one: one is not situation.called_by):
        if channel in situation.reachable and _is_allowed(situation, channel):
            return channel
    return None


def _checks(situation: Situation, channel: Channel | None) -> Iterator[Check]:
    yield _erasure(situation)
    yield _release(situation)
    yield _expiry(situation)
    yield _subject(situation)
    if situation.needs_appointment:
        yield _appointment(situation)
        yield _feed(situation)
    yield _contact(situation)
    yield _consent(situation, channel)
    yield _pause(situation, channel)
    yield _quiet_hours(situation)
    yield _cap(situation)


def _passed(name: str, detail: str) -> Check:
    return Check(name, Verdict.SEND, detail)


def _erasure(situation: Situation) -> Check:
    if situation.is_erased:
        return Check("erasure", Verdict.DROP, "the patient was erased", "patient_erased")
    return _passed("erasure", "the patient is not erased")


def _release(situation: Situation) -> Check:
    if situation.is_released:
        return Check("release", Verdict.DROP, "no further contact is owed", "released")
    return _passed("release", "no release bars it")


def _expiry(situation: Situation) -> Check:
    limit = f"expires at {situation.expires_at.isoformat()}"
    if situation.now >= situation.expires_at:
        return Check("expiry", Verdict.DROP, limit, "expired")
    return _passed("expiry", limit)


def _subject(situation: Situation) -> Check:
    if not situation.is_subject_theirs:
        detail = "the visit is not known as this patient's any more"
        return Check("subject", Verdict.DROP, detail, "visit_moved")
    return _passed("subject", "the message is about this patient")


def _appointment(situation: Situation) -> Check:
    fact = situation.appointment
    if fact is None or fact.starts_at is None:
        detail = "nothing is known of the appointment of this patient"
        return Check("appointment", Verdict.DROP, detail, "appointment_unknown")
    detail = f"{fact.status}, starts at {fact.starts_at.isoformat()}"
    if fact.status not in ANSWERABLE:
        return Check("appointment", Verdict.DROP, detail, f"appointment_{fact.status}")
    if fact.starts_at != situation.planned_start:
        return Check("appointment", Verdict.DROP, detail, "appointment_moved")
    return _passed("appointment", detail)


def _feed(situation: Situation) -> Check:
    if not situation.is_feed_fresh:
        detail = "the feed of appointments is unreachable or more than 60 s behind"
        return Check("feed", Verdict.WAIT, detail, "feed_behind")
    return _passed("feed", "the feed of appointments is fresh")


def _contact(situation: Situation) -> Check:
    if situation.is_contact_unreadable:
        detail = "the contact is kept under a key that is not in the key ring"
        return Check("contact", Verdict.WAIT, detail, "contact_unreadable")
    if situation.is_contact_unheard:
        detail = "no contact has come, and one may be on its way"
        return Check("contact", Verdict.WAIT, detail, "contact_unheard")
    if not situation.reachable:
        return Check("contact", Verdict.DROP, "no address is known", "no_channel")
    return _passed("contact", "reachable by " + ", ".join(sorted(situation.reachable)))


def _is_allowed(situation: Situation, channel: Channel) -> bool:
    state = situation.consent.get((situation.legal_class, channel))
    if situation.policy.consent[situation.legal_class] is ConsentRule.NEEDS_GRANT:
        return state == "granted"
    return state != "refused"


def _consent(situation: Situation, channel: Channel | None) -> Check:
    rule = situation.policy.consent[situation.legal_class]
    states = ", ".join(
        f"{one}: {situation.consent.get((situation.legal_class, one), 'not asked')}"
        for one in sorted(situation.reachable)
    )
    detail = f"{situation.legal_class} is allowed {rule}; {states or 'no channel to ask for'}"
    if channel is None and situation.reachable:
        reason = "no_consent" if rule is ConsentRule.NEEDS_GRANT else "consent_refused"
        return Check("consent", Verdict.DROP, detail, reason)
    return _passed("consent", detail)


def _pause(situation: Situation, channel: Channel | None) -> Check:
    scopes = {"clinic", f"journey:{situation.journey}", f"channel:{channel}"}
    if stopped := sorted(scopes & situation.pauses):
        return Check("pause", Verdict.WAIT, "paused: " + ", ".join(stopped), "paused")
    return _passed("pause", "nothing is paused")


def _quiet_hours(situation: Situation) -> Check:
    zone, quiet = zone_of(situation.time_zone), situation.policy.quiet
    local = situation.now.astimezone(zone)
    detail = f"{local:%H:%M} in {situation.time_zone}, quiet from {quiet.start:%H:%M} to {quiet.end:%H:%M}"
    opening = next_opening(situation.now, zone, quiet)
    if opening > situation.now:
        return Check("quiet_hours", Verdict.WAIT, detail, "quiet_hours", opening)
    return _passed("quiet_hours", detail)


def _cap(situation: Situation) -> Check:
    limit = situation.policy.messages_per_day
    if situation.legal_class not in situation.policy.capped:
        return _passed("cap", f"{situation.legal_class} messages are not capped")
    detail = f"{situation.sent_on_day} of {limit} today"
    if situation.sent_on_day >= limit:
        zone = zone_of(situation.time_zone)
        _, tomorrow = local_day(situation.now, zone)
        opening = next_opening(tomorrow, zone, situation.policy.quiet)
        return Check("cap", Verdict.WAIT, detail, "cap", opening)
    return _passed("cap", detail)
