"""The two transactions of a sending: deciding before the provider is called, and settling after.

Between them lies the call itself (`sender`), outside any transaction. A message is marked `sending`
before the call, so a crash leaves a trace: an SMS is then asked for again under its key, a letter
becomes uncertain.
"""

import random
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from jinja2 import TemplateError
from sqlalchemy.ext.asyncio import AsyncConnection

from engagement.channels.domain import Outgoing
from engagement.journeys.domain import planned_start
from engagement.links.domain import Link
from engagement.links.store import save_links
from engagement.messages import notices, store
from engagement.messages.content import (
    MessageFacts,
    Person,
    PublicUrls,
    compose,
    language_of,
    opened_draft,
    person,
    sealed_draft,
)
from engagement.messages.domain import (
    Channel,
    LegalClass,
    MessageState,
    Outcome,
    SendResult,
    WaitingFor,
    retry_delay,
)
from engagement.messages.gate import AppointmentFact, Decision, Situation, Verdict, decide
from engagement.messages.ledger import decision_json
from engagement.messages.policy import policy_of
from engagement.messages.store import Claim, Decided, Settled
from engagement.messages.windows import local_day, zone_of
from engagement.tasks.domain import NewTask
from engagement.tasks.usecases import open_tasks
from revisit_chassis.clock import Clock
from revisit_chassis.crypto import Keyring
from revisit_events.envelope import AnyEvent, new_event
from revisit_events.outbox import publish

SOURCE = "/engagement"
PAUSE_HOLDS = timedelta(seconds=30)
FEED_HOLDS = timedelta(seconds=3)
_TWO_DAYS = timedelta(days=2)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Desk:
    """What the sender works with.

    Args:
        keyring: Opens contacts, seals drafts.
        urls: Where links lead.
        channels: Channels that are configured.
        is_feed_fresh: Whether the events of the last minute have been applied.
    """

    keyring: Keyring
    urls: PublicUrls
    channels: frozenset[Channel]
    is_feed_fresh: bool


@dataclass(frozen=True, slots=True)
class Ready:
    """A message marked `sending`; `attempt` fences what is written about it."""

    facts: MessageFacts
    step: str
    channel: Channel
    attempt: int
    calls: int
    outgoing: Outgoing


@dataclass(slots=True)
class _Batch:
    """What one deciding transaction collects before it writes."""

    decided: list[Decided]
    ready: list[Ready]
    links: list[Link]
    events: list[AnyEvent]
    tasks: list[NewTask]


async def prepare(
    connection: AsyncConnection,
    claims: Sequence[Claim],
    desk: Desk,
    clock: Clock,
    real_now: datetime,
    lease_until: datetime,
) -> list[Ready]:
    """Judges claimed messages by what stands now and marks those that may leave as `sending`.

    Args:
        connection: Inside a transaction of the messages' clinics.
        claims: What was claimed.
        desk: What the sender works with.
        clock: Business time.
        real_now: Real time, for waits.
        lease_until: Real time until which those that leave stay claimed.
    """
    await store.lock_patients(connection, claims)
    rows = sorted(
        await store.subjects(connection, claims), key=lambda row: (row.due_at, row.message_id)
    )
    if not rows:
        return []
    judge = await _judge(connection, rows, desk, clock)
    batch = _Batch([], [], [], [], [])
    for row in rows:
        _handle(row, judge, desk, real_now, lease_until, batch)
    await store.save_decisions(connection, batch.decided)
    await save_links(connection, batch.links)
    await publish(connection, batch.events)
    await open_tasks(connection, batch.tasks, clock.now())
    return batch.ready


@dataclass(slots=True)
class _Judge:
    """All that the batch is judged by, besides the rows themselves."""

    consent: dict[tuple[UUID, UUID], dict[tuple[str, str], str]]
    pauses: dict[UUID, frozenset[str]]
    sent: dict[tuple[UUID, UUID], list[tuple[UUID, datetime]]]
    desk: Desk
    clock: Clock

    def moment(self, row: Any) -> datetime:
        """When a message is judged: at its due time, or now when it has waited."""
        moment = self.clock.now() if row.waiting_for else self.clock.at(row.due_at)
        return max(moment, row.decided_at) if row.decided_at else moment

    def situation(self, row: Any, whom: Person, at: datetime) -> Situation:
        """Everything the gate wants to know of one message."""
        key = (row.clinic_id, row.patient_id)
        start, end = local_day(at, zone_of(row.time_zone))
        fact = None
        if row.appointment_status is not None:
            fact = AppointmentFact(row.appointment_status, row.starts_at)
        expected = planned_start(row.journey, row.occurrence)
        return Situation(
            now=at,
            journey=row.journey,
            legal_class=LegalClass(row.legal_class),
            expires_at=row.expires_at,
            time_zone=row.time_zone,
            policy=policy_of(row.country),
            reachable=frozenset(whom.address) & self.desk.channels,
            consent=self.consent.get(key, {}),
            is_erased=row.erased_at is not None,
            is_released=row.is_released,
            pauses=self.pauses.get(row.clinic_id, frozenset()),
            sent_on_day=sum(
                start <= moment < end
                for message_id, moment in self.sent[key]
                if message_id != row.message_id
            ),
            needs_appointment=expected is not None,
            appointment=fact,
            planned_start=expected,
            is_feed_fresh=self.desk.is_feed_fresh,
        )


async def _judge(
    connection: AsyncConnection, rows: Sequence[Any], desk: Desk, clock: Clock
) -> _Judge:
    patients = sorted({(row.clinic_id, row.patient_id) for row in rows})
    judge = _Judge({}, {}, defaultdict(list), desk, clock)
    for one in await store.consents(connection, patients):
        stands = judge.consent.setdefault((one.clinic_id, one.patient_id), {})
        stands[one.purpose, one.channel] = one.state
    judge.pauses = await store.paused_scopes(connection, {row.clinic_id for row in rows})
    capped = frozenset[str]().union(*(policy_of(row.country).capped for row in rows))
    since = min(judge.moment(row) for row in rows) - _TWO_DAYS
    for clinic_id, patient_id, message_id, at in await store.sent_since(
        connection, patients, capped, since
    ):
        judge.sent[clinic_id, patient_id].append((message_id, at))
    return judge


def _handle(
    row: Any, judge: _Judge, desk: Desk, real_now: datetime, lease_until: datetime, batch: _Batch
) -> None:
    """Decides one message and notes what is to be written about it."""
    at = judge.moment(row)
    whom = person(desk.keyring, row.clinic_id, row.patient_id, row.contact_ciphertext)
    decision = decide(judge.situation(row, whom, at))
    was_called = row.state == MessageState.SENDING or row.waiting_for == WaitingFor.ANSWER
    is_lost = was_called and (
        row.channel == Channel.EMAIL
        or decision.verdict is Verdict.DROP
        or decision.channel != row.channel
    )
    if is_lost:
        _note_uncertain(row, decision, at, batch)
    elif decision.verdict is Verdict.SEND and decision.channel is not None:
        _note_sending(row, decision, decision.channel, whom, at, lease_until, desk, batch, judge)
    elif decision.verdict is Verdict.WAIT:
        _note_waiting(row, decision, at, real_now, batch, was_called=was_called)
    else:
        _note_dropped(row, decision, decision.reason or "dropped", at, batch)


def _note_sending(
    row: Any,
    decision: Decision,
    channel: Channel,
    whom: Person,
    at: datetime,
    lease_until: datetime,
    desk: Desk,
    batch: _Batch,
    judge: _Judge,
) -> None:
    facts = _facts(row)
    outgoing, draft = _earlier_call(row, facts, channel, whom, at, desk)
    if outgoing is None:
        try:
            composed = compose(facts, channel, whom, desk.urls, at)
        except TemplateError as error:
            log.exception("message.not_rendered", message_id=str(row.message_id))
            _note_dropped(row, decision, f"template_{type(error).__name__}", at, batch)
            return
        outgoing = composed.outgoing
        draft = sealed_draft(desk.keyring, facts, outgoing) if channel is Channel.SMS else None
        batch.links.append(composed.preferences)
        batch.events += [
            new_event(
                issued,
                source=SOURCE,
                clinic_id=row.clinic_id,
                time=at,
                id=f"{issued.link_id}:issued",
            )
            for issued in composed.issued
        ]
    batch.ready.append(Ready(facts, row.step, channel, row.attempt, row.calls + 1, outgoing))
    batch.decided.append(
        _decided(row, MessageState.SENDING, decision, at, lease_until=lease_until, draft=draft)
    )
    if facts.legal_class in policy_of(row.country).capped:
        judge.sent[row.clinic_id, row.patient_id].append((row.message_id, at))


def _earlier_call(
    row: Any, facts: MessageFacts, channel: Channel, whom: Person, at: datetime, desk: Desk
) -> tuple[Outgoing | None, bytes | None]:
    """The same call as before, where there was one: under one key a gateway must hear one text."""
    if row.draft is None or channel is not Channel.SMS:
        return None, None
    outgoing = opened_draft(desk.keyring, facts, row.draft, at)
    was_called = row.state == MessageState.SENDING or row.waiting_for == WaitingFor.ANSWER
    if outgoing is None or (outgoing.to != whom.address.get(channel) and not was_called):
        return None, None
    return outgoing, row.draft


def _note_waiting(
    row: Any,
    decision: Decision,
    at: datetime,
    real_now: datetime,
    batch: _Batch,
    *,
    was_called: bool,
) -> None:
    waiting_for: WaitingFor | None = WaitingFor.ANSWER if was_called else None
    retry_at = None
    if decision.until is None:
        waiting_for = waiting_for or WaitingFor.RELEASE
        retry_at = real_now + (PAUSE_HOLDS if decision.reason == "paused" else FEED_HOLDS)
    batch.decided.append(
        _decided(
            row,
            MessageState.SCHEDULED,
            decision,
            at,
            due_at=decision.until,
            retry_at=retry_at,
            waiting_for=waiting_for,
            draft=row.draft,
        )
    )


def _note_dropped(row: Any, decision: Decision, reason: str, at: datetime, batch: _Batch) -> None:
    batch.decided.append(_decided(row, MessageState.DROPPED, decision, at, reason=reason))
    if reason == "no_channel":
        batch.tasks.append(notices.unreachable(_facts(row), at))


def _note_uncertain(row: Any, decision: Decision, at: datetime, batch: _Batch) -> None:
    facts = _facts(row)
    reason = "interrupted" if decision.reason is None else decision.reason
    batch.decided.append(_decided(row, MessageState.UNCERTAIN, decision, at, reason=reason))
    batch.tasks.append(notices.uncertain(facts, at))
    batch.events.append(notices.failed(facts, row.step, row.channel, "uncertain", at))


def _decided(
    row: Any,
    state: MessageState,
    decision: Decision,
    at: datetime,
    *,
    reason: str | None = None,
    due_at: datetime | None = None,
    retry_at: datetime | None = None,
    waiting_for: str | None = None,
    lease_until: datetime | None = None,
    draft: bytes | None = None,
) -> Decided:
    # A message that was called keeps the channel and the moment of its call.
    was_sending = row.state == MessageState.SENDING
    return Decided(
        clinic_id=row.clinic_id,
        message_id=row.message_id,
        attempt=row.attempt,
        state=state,
        channel=row.channel if was_sending else decision.channel,
        reason=reason or decision.reason,
        decision=decision_json(decision, at),
        decided_at=row.decided_at if was_sending else at,
        due_at=due_at or row.due_at,
        retry_at=retry_at,
        waiting_for=waiting_for,
        lease_until=lease_until,
        draft=draft,
    )


def _facts(row: Any) -> MessageFacts:
    return MessageFacts(
        clinic_id=row.clinic_id,
        message_id=row.message_id,
        patient_id=row.patient_id,
        journey=row.journey,
        legal_class=row.legal_class,
        subject_id=row.subject_id,
        clinic_name=row.clinic_name,
        time_zone=row.time_zone,
        language=language_of(row.language, row.clinic_language),
        completed_at=row.completed_at,
        starts_at=row.starts_at,
    )


async def settle(
    connection: AsyncConnection,
    results: Collection[tuple[Ready, SendResult]],
    now: datetime,
    real_now: datetime,
) -> None:
    """Writes what the providers answered, of the messages only whose claim still holds.

    Args:
        connection: Inside a transaction of the messages' clinics.
        results: Each message with the outcome of its call.
        now: Business time.
        real_now: Real time, for retries.
    """
    rows = sorted(_settled(ready, result, real_now) for ready, result in results)
    held = await store.save_outcomes(connection, rows)
    events: list[AnyEvent] = []
    tasks: list[NewTask] = []
    for ready, result in results:
        facts, at = ready.facts, ready.outgoing.at
        if facts.message_id not in held:
            continue
        match result.outcome:
            case Outcome.SENT:
                events.append(notices.sent(facts, ready.step, ready.channel, at))
            case Outcome.REJECTED:
                events.append(notices.failed(facts, ready.step, ready.channel, "rejected", at))
                tasks.append(notices.unreachable(facts, at))
            case Outcome.UNCERTAIN:
                events.append(notices.failed(facts, ready.step, ready.channel, "uncertain", at))
                tasks.append(notices.uncertain(facts, at))
            case Outcome.RETRY:
                pass
    await publish(connection, events)
    await open_tasks(connection, tasks, now)


_STATE_AFTER = {
    Outcome.SENT: MessageState.SENT,
    Outcome.REJECTED: MessageState.DROPPED,
    Outcome.UNCERTAIN: MessageState.UNCERTAIN,
    Outcome.RETRY: MessageState.SCHEDULED,
}
_REASON_AFTER = {
    Outcome.SENT: None,
    Outcome.REJECTED: "rejected_by_provider",
    Outcome.UNCERTAIN: "no_answer",
    Outcome.RETRY: None,
}


def _settled(ready: Ready, result: SendResult, real_now: datetime) -> Settled:
    retry_at = waiting_for = None
    if result.outcome is Outcome.RETRY:
        spread = random.random()  # noqa: S311  # jitter, no secret
        retry_at = real_now + retry_delay(ready.calls, result.retry_after_seconds, spread)
        waiting_for = WaitingFor.ANSWER if result.may_have_arrived else WaitingFor.PROVIDER
    return Settled(
        clinic_id=ready.facts.clinic_id,
        message_id=ready.facts.message_id,
        attempt=ready.attempt,
        state=_STATE_AFTER[result.outcome],
        reason=_REASON_AFTER[result.outcome],
        provider_id=result.provider_id,
        retry_at=retry_at,
        waiting_for=waiting_for,
        detail=result.detail,
    )
