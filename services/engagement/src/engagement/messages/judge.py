"""From a due message to what is to be written about it: the gate's decision, the call. No I/O.

What a message went through decides as much as the gate does: one that may have been delivered leaves
again only as the same SMS under the same key, and is never called dropped.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import structlog
from jinja2 import TemplateError

from engagement.channels.domain import Outgoing
from engagement.journeys.domain import FOLLOW_UP
from engagement.links.domain import Link
from engagement.messages import notices
from engagement.messages.content import (
    Draft,
    MessageFacts,
    Person,
    compose,
    opened_draft,
    person,
    repeated,
    sealed_draft,
)
from engagement.messages.domain import Channel, MessageState, WaitingFor
from engagement.messages.gate import Check, Decision, Situation, Verdict, decide
from engagement.messages.ledger import decision_json
from engagement.messages.situation import (
    Background,
    appointment_fact,
    channel_called,
    facts_of,
    situation_of,
)
from engagement.messages.store import Decided, DueMessage, Standing
from engagement.tasks.domain import NewTask
from revisit_chassis.clock import Clock
from revisit_events.envelope import AnyEvent, new_event

# Real time after which a message that waits for nothing known is judged again.
HOLDS = {"paused": timedelta(seconds=30), "contact_unreadable": timedelta(seconds=30)}
FEED_HOLDS = timedelta(seconds=3)
# What is known of the feed is known once a second.
CONTACT_HOLDS = timedelta(seconds=1)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Ready:
    """A message marked `sending`; `attempt` fences what is written about it.

    Args:
        situation: What the gate let it pass by.
        contact_precedence: Which contact block it is addressed by.
        may_have_arrived: An earlier call may have delivered it: whatever this one comes to, it is
            never surely not delivered.
    """

    facts: MessageFacts
    step: str
    channel: Channel
    attempt: int
    calls: int
    outgoing: Outgoing
    situation: Situation
    contact_precedence: str | None
    may_have_arrived: bool


@dataclass(slots=True)
class Judged:
    """What one deciding transaction writes, and what may leave after it."""

    decided: list[Decided] = field(default_factory=list)
    ready: list[Ready] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    events: list[AnyEvent] = field(default_factory=list)
    tasks: list[NewTask] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Case:
    """One message with what was found out about it."""

    row: DueMessage
    facts: MessageFacts
    whom: Person
    draft: Draft | None
    situation: Situation
    decision: Decision

    @property
    def at(self) -> datetime:
        return self.situation.now

    @property
    def may_have_arrived(self) -> bool:
        return self.situation.called_by is not None


def judge(rows: Sequence[DueMessage], background: Background) -> Judged:
    """Judges messages in the order given; each sees those before it in the cap."""
    judged = Judged()
    for row in rows:
        case = _case(row, background)
        verdict = case.decision.verdict
        if _is_lost(case):
            _note_uncertain(case, judged)
        elif verdict is Verdict.SEND and case.decision.channel is not None:
            _note_sending(case, case.decision.channel, background, judged)
        elif verdict is Verdict.WAIT:
            _note_waiting(case, background, judged)
        else:
            _note_dropped(case, case.decision.reason or "dropped", judged)
    return judged


def judged_odd(row: DueMessage, error: str, at: datetime) -> Judged:
    """The end of a message that cannot be judged: explained, so that it spoils no other batch.

    Args:
        row: The message.
        error: What came of the attempt; nothing personal.
        at: The moment.
    """
    detail = f"the message could not be judged: {error}"
    check = Check("judgement", Verdict.DROP, detail, "not_judged")
    called_by = channel_called(row)
    decision = Decision(Verdict.DROP, check.reason, called_by, None, (check,))
    judged = Judged()
    facts = facts_of(row)
    if called_by is not None:
        judged.decided.append(_decided(row, MessageState.UNCERTAIN, decision, at))
        judged.tasks.append(notices.uncertain(facts, at))
        judged.events.append(notices.failed(facts, row.step, called_by, "uncertain", at))
    else:
        judged.decided.append(_decided(row, MessageState.DROPPED, decision, at))
        judged.tasks.append(notices.unreachable(facts, at))
    return judged


def still_stands(ready: Ready, now: Standing, clock: Clock, *, is_feed_fresh: bool) -> bool:
    """Whether the gate, asked again just before the call, would let the message pass as it is.

    Args:
        ready: What is about to be called.
        now: What stands now.
        clock: Business time.
        is_feed_fresh: Whether the events of the last minute have been applied.
    """
    if now.contact_precedence != ready.contact_precedence:
        return False
    before = ready.situation
    said = (text.partition(" ") for text in now.consent)
    decision = decide(
        replace(
            before,
            now=max(before.now, clock.at(before.now)),
            consent={(before.legal_class.value, channel): state for channel, _, state in said},
            is_erased=now.erased_at is not None,
            is_released=now.is_released,
            pauses=frozenset(now.pauses),
            appointment=appointment_fact(now.appointment_status, now.starts_at),
            is_subject_theirs=before.journey != FOLLOW_UP or now.completed_at is not None,
            is_feed_fresh=is_feed_fresh,
        )
    )
    return decision.verdict is Verdict.SEND and decision.channel is ready.channel


def _case(row: DueMessage, background: Background) -> _Case:
    whom = person(background.keyring, row.clinic_id, row.patient_id, row.contact_ciphertext)
    facts = facts_of(row)
    draft = opened_draft(background.keyring, facts, row.draft)
    situation = situation_of(row, whom, background)
    return _Case(row, facts, whom, draft, situation, decide(situation))


def _is_lost(case: _Case) -> bool:
    """Whether the message may have arrived, and the very same call cannot be made again."""
    called_by, decision = case.situation.called_by, case.decision
    if called_by is None:
        return False
    if called_by is Channel.EMAIL or decision.verdict is Verdict.DROP:
        return True
    can_repeat = case.draft is not None and case.draft.channel is called_by
    return decision.verdict is Verdict.SEND and (
        decision.channel is not called_by or not can_repeat
    )


def _note_sending(case: _Case, channel: Channel, background: Background, judged: Judged) -> None:
    row, facts, at = case.row, case.facts, case.at
    outgoing, sealed = _earlier_call(case, channel), row.draft
    if outgoing is None:
        known = {} if case.draft is None else case.draft.tokens
        try:
            composed = compose(facts, channel, case.whom, background.urls, at, known)
        except TemplateError as error:
            log.exception("message.not_rendered", message_id=str(row.message_id))
            _note_dropped(case, f"template_{type(error).__name__}", judged)
            return
        outgoing, sealed = (
            composed.outgoing,
            sealed_draft(background.keyring, facts, composed.draft),
        )
        judged.links += composed.links
        judged.events += [
            new_event(
                issued,
                source=notices.SOURCE,
                clinic_id=row.clinic_id,
                time=at,
                id=f"{issued.link_id}:issued",
            )
            for issued in composed.issued
        ]
    judged.ready.append(
        Ready(
            facts=facts,
            step=row.step,
            channel=channel,
            attempt=row.attempt,
            calls=row.calls + 1,
            outgoing=outgoing,
            situation=case.situation,
            contact_precedence=row.contact_precedence,
            may_have_arrived=case.may_have_arrived,
        )
    )
    judged.decided.append(
        _decided(
            row,
            MessageState.SENDING,
            case.decision,
            at,
            lease_until=background.lease_until,
            draft=sealed,
        )
    )
    if case.situation.legal_class in case.situation.policy.capped:
        key = (row.clinic_id, row.patient_id)
        background.sent.setdefault(key, []).append((row.message_id, at))


def _earlier_call(case: _Case, channel: Channel) -> Outgoing | None:
    """The same call as before, where there was one: under one key a gateway must hear one text."""
    draft = case.draft
    if draft is None or channel is not Channel.SMS or draft.channel is not channel:
        return None
    if draft.to != case.whom.address.get(channel) and not case.may_have_arrived:
        return None
    return repeated(case.facts, draft, case.at)


def _note_waiting(case: _Case, background: Background, judged: Judged) -> None:
    decision = case.decision
    waiting_for = WaitingFor.ANSWER if case.may_have_arrived else None
    retry_at = None
    if decision.until is None:
        held_by, holds = WaitingFor.RELEASE, HOLDS.get(decision.reason or "", FEED_HOLDS)
        if decision.reason == "contact_unheard" and background.feed.is_fresh:
            held_by, holds = WaitingFor.CONTACT, CONTACT_HOLDS
        waiting_for = waiting_for or held_by
        retry_at = background.real_now + holds
    judged.decided.append(
        _decided(
            case.row,
            MessageState.SCHEDULED,
            decision,
            case.at,
            due_at=decision.until,
            retry_at=retry_at,
            waiting_for=waiting_for,
            draft=case.row.draft,
        )
    )


def _note_dropped(case: _Case, reason: str, judged: Judged) -> None:
    judged.decided.append(
        _decided(case.row, MessageState.DROPPED, case.decision, case.at, reason=reason)
    )
    is_unreachable = case.situation.is_contact_unheard and reason == "expired"
    if reason == "no_channel" or is_unreachable:
        judged.tasks.append(notices.unreachable(case.facts, case.at))


def _note_uncertain(case: _Case, judged: Judged) -> None:
    row, facts, at = case.row, case.facts, case.at
    reason = case.decision.reason or "interrupted"
    judged.decided.append(_decided(row, MessageState.UNCERTAIN, case.decision, at, reason=reason))
    judged.tasks.append(notices.uncertain(facts, at))
    judged.events.append(notices.failed(facts, row.step, row.channel or "unknown", "uncertain", at))


def _decided(
    row: DueMessage,
    state: MessageState,
    decision: Decision,
    at: datetime,
    *,
    reason: str | None = None,
    due_at: datetime | None = None,
    retry_at: datetime | None = None,
    waiting_for: WaitingFor | None = None,
    lease_until: datetime | None = None,
    draft: bytes | None = None,
) -> Decided:
    # A message that may have arrived keeps the channel and the moment of that call.
    called_by = channel_called(row)
    return Decided(
        clinic_id=row.clinic_id,
        message_id=row.message_id,
        attempt=row.attempt,
        state=state,
        channel=called_by or decision.channel,
        reason=reason or decision.reason,
        decision=decision_json(decision, at),
        decided_at=row.decided_at if called_by is not None and row.decided_at else at,
        due_at=due_at or row.due_at,
        retry_at=retry_at,
        waiting_for=waiting_for,
        lease_until=lease_until,
        draft=draft,
    )
