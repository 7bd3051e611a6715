"""The transactions of a sending: deciding before the provider is called, and settling after.

Between them lies the call itself (`dispatch`), outside any transaction. A message is marked `sending`
before the call, so a crash leaves a trace: an SMS is then asked for again under its key, a letter
becomes uncertain.
"""

import random
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from engagement.links.store import save_links
from engagement.messages import notices, store
from engagement.messages.content import PublicUrls
from engagement.messages.domain import (
    Channel,
    MessageState,
    Outcome,
    SendResult,
    WaitingFor,
    retry_delay,
)
from engagement.messages.judge import (
    Judged,
    Ready,
    judge,
    judged_odd,
    still_stands,
)
from engagement.messages.keys import Keys
from engagement.messages.policy import policy_of
from engagement.messages.situation import Background, Feed, Patient, moment
from engagement.messages.store import Claim, DueMessage, Settled
from engagement.tasks.domain import NewTask
from engagement.tasks.usecases import open_tasks
from revisit_chassis.clock import Clock
from revisit_events.envelope import AnyEvent
from revisit_events.outbox import publish

_TWO_DAYS = timedelta(days=2)
# A message that was not called after all is judged again at once; not so soon that two checks which
# disagree would keep a core busy.
_AGAIN_AFTER = timedelta(seconds=0.2)


@dataclass(frozen=True, slots=True)
class Desk:
    """What the sender works with.

    Args:
        keys: Open contacts, seal drafts.
        urls: Where links lead.
        channels: Channels that are configured.
        feed: What is known of the events that led here.
    """

    keys: Keys
    urls: PublicUrls
    channels: frozenset[Channel]
    feed: Feed


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
    rows = await store.subjects(connection, claims)
    if not rows:
        return []
    background = await _background(connection, rows, desk, clock, real_now, lease_until)
    judged = judge(rows, background)
    await _write(connection, judged, clock.now())
    return judged.ready


async def end_odd(connection: AsyncConnection, claim: Claim, error: str, clock: Clock) -> None:
    """Ends a message that alone cannot be judged, with a decision that says so.

    Args:
        connection: Inside a transaction of the message's clinic.
        claim: The message.
        error: What came of the attempt; nothing personal.
        clock: Business time.
    """
    for row in await store.subjects(connection, [claim]):
        await _write(connection, judged_odd(row, error, moment(row, clock)), clock.now())


async def confirm(
    connection: AsyncConnection, ready: Sequence[Ready], clock: Clock, *, is_feed_fresh: bool
) -> dict[UUID, bool]:
    """Asks the gate again, just before the calls: whether each message may still leave as it is.

    A message whose claim is somebody else's by now is missing from the answer.

    Args:
        connection: Inside a transaction of the messages' clinics.
        ready: What is about to be called.
        clock: Business time.
        is_feed_fresh: Whether the events of the last minute have been applied.
    """
    keys = {(one.facts.clinic_id, one.facts.message_id): one for one in ready}
    claims = [
        Claim(one.facts.clinic_id, one.facts.message_id, one.facts.patient_id, one.attempt)
        for one in ready
    ]
    found = await store.standing(connection, claims)
    return {
        row.message_id: still_stands(
            keys[row.clinic_id, row.message_id], row, clock, is_feed_fresh=is_feed_fresh
        )
        for row in found
    }


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
    known = [(ready, with_history(ready, result)) for ready, result in results]
    rows = sorted((_settled(ready, result, real_now) for ready, result in known), key=_key)
    held = await store.save_outcomes(connection, rows)
    events: list[AnyEvent] = []
    tasks: list[NewTask] = []
    for ready, result in known:
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
            case Outcome.RETRY | Outcome.WITHDRAWN:
                pass
    await publish(connection, events)
    await open_tasks(connection, tasks, now)


def with_history(ready: Ready, result: SendResult) -> SendResult:
    """The outcome of a call in the light of the calls before it.

    After a call that may have worked, a refusal of the next says nothing about the first.
    """
    if not ready.may_have_arrived:
        return result
    if result.outcome is Outcome.REJECTED:
        return replace(result, outcome=Outcome.UNCERTAIN)
    return replace(result, may_have_arrived=True)


async def _background(
    connection: AsyncConnection,
    rows: Sequence[DueMessage],
    desk: Desk,
    clock: Clock,
    real_now: datetime,
    lease_until: datetime,
) -> Background:
    patients = sorted({(row.clinic_id, row.patient_id) for row in rows})
    consent: dict[Patient, dict[tuple[str, str], str]] = {}
    for one in await store.consents(connection, patients):
        stands = consent.setdefault((one.clinic_id, one.patient_id), {})
        stands[one.purpose, one.channel] = one.state
    sent: dict[Patient, list[tuple[UUID, datetime]]] = defaultdict(list)
    capped = frozenset[str]().union(*(policy_of(row.country).capped for row in rows))
    since = min(moment(row, clock) for row in rows) - _TWO_DAYS
    for clinic_id, patient_id, message_id, at in await store.sent_since(
        connection, patients, capped, since
    ):
        sent[clinic_id, patient_id].append((message_id, at))
    return Background(
        keyring=desk.keys.ring(
            text for row in rows for text in (row.contact_ciphertext, row.draft)
        ),
        urls=desk.urls,
        channels=desk.channels,
        feed=desk.feed,
        consent=consent,
        pauses=await store.paused_scopes(connection, {row.clinic_id for row in rows}),
        sent=sent,
        clock=clock,
        real_now=real_now,
        lease_until=lease_until,
    )


async def _write(connection: AsyncConnection, judged: Judged, now: datetime) -> None:
    if judged.decided:
        await store.save_decisions(connection, judged.decided)
    await save_links(connection, judged.links)
    await publish(connection, judged.events)
    await open_tasks(connection, judged.tasks, now)


_STATE_AFTER = {
    Outcome.SENT: MessageState.SENT,
    Outcome.REJECTED: MessageState.DROPPED,
    Outcome.UNCERTAIN: MessageState.UNCERTAIN,
    Outcome.RETRY: MessageState.SCHEDULED,
    Outcome.WITHDRAWN: MessageState.SCHEDULED,
}
_REASON_AFTER = {Outcome.REJECTED: "rejected_by_provider", Outcome.UNCERTAIN: "no_answer"}


def _settled(ready: Ready, result: SendResult, real_now: datetime) -> Settled:
    retry_at = waiting_for = None
    if result.outcome in {Outcome.RETRY, Outcome.WITHDRAWN}:
        spread = random.random()  # noqa: S311  # jitter, no secret
        pause = _AGAIN_AFTER
        if result.outcome is Outcome.RETRY:
            pause = retry_delay(ready.calls, result.retry_after_seconds, spread)
        retry_at = real_now + pause
        waiting_for = WaitingFor.ANSWER if result.may_have_arrived else WaitingFor.PROVIDER
    return Settled(
        clinic_id=ready.facts.clinic_id,
        message_id=ready.facts.message_id,
        attempt=ready.attempt,
        state=_STATE_AFTER[result.outcome],
        reason=_REASON_AFTER.get(result.outcome),
        provider_id=result.provider_id,
        retry_at=retry_at,
        waiting_for=waiting_for,
        detail=result.detail,
    )


def _key(row: Settled) -> tuple[UUID, UUID]:
    return row.clinic_id, row.message_id
