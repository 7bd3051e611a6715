"""From a message's facts to what leaves: whom it goes to, its links, its text. No I/O.

The links are made here, at the last moment. Their tokens are stored nowhere but, encrypted, in the
draft of a message in flight: whoever calls again says the same and issues no second link.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from engagement.channels.domain import Outgoing
from engagement.journeys.domain import FOLLOW_UP, REMINDER
from engagement.links.domain import PREFERENCES, Link, new_token, token_hash
from engagement.messages.domain import Channel
from engagement.messages.windows import zone_of
from engagement.rendering.domain import (
    greeting,
    one_line,
    written_day,
    written_time,
)
from engagement.rendering.render import Content, Facts, render
from revisit_chassis.crypto import Keyring, UnknownKey, UnreadableCiphertext
from revisit_events.contracts import LinkIssued
from revisit_events.contracts.fields import LegalClass

_PURPOSES: Mapping[str, tuple[str, ...]] = {FOLLOW_UP: ("survey",), REMINDER: ("confirm", "cancel")}
_SURVEY_LASTS = timedelta(days=30)
_PREFERENCES_LAST = timedelta(days=365)
_NOBODY: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class PublicUrls:
    """Where patients reach the pages behind the links; no trailing slash."""

    engagement: str
    booking: str
    feedback: str


@dataclass(frozen=True, slots=True)
class Person:
    """A patient's contact block, in clear: never logged, its text form shows nothing.

    Args:
        name: `given`, `middle`, `family`, as far as known.
        address: Where the patient is reached.
        is_unreadable: There is a block, but it does not open: its key may yet come.
    """

    name: Mapping[str, str] = field(default_factory=dict, repr=False)
    address: Mapping[Channel, str] = field(default_factory=dict, repr=False)
    is_unreadable: bool = False


@dataclass(frozen=True, slots=True)
class MessageKeys:
    """Which message it is, to whom and about what: all that others are told of it."""

    clinic_id: UUID
    message_id: UUID
    patient_id: UUID
    journey: str
    legal_class: LegalClass
    subject_id: UUID
    starts_at: datetime | None
    """Of the appointment that it is about."""


@dataclass(frozen=True, slots=True)
class MessageFacts(MessageKeys):
    """What a text is filled with."""

    clinic_name: str
    time_zone: str
    language: str
    completed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Draft:
    """What an earlier call said: never logged, its text form shows nothing.

    Args:
        channel: Which way it went.
        to: Address or phone it went to.
        text: Its text; of an SMS only.
        tokens: Of its links, by purpose; that of the preferences by purpose and channel.
    """

    channel: Channel
    to: str = field(repr=False)
    text: str | None = field(repr=False)
    tokens: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Composed:
    """A message ready to leave, its draft, its new links and what is published about those."""

    outgoing: Outgoing
    draft: Draft
    links: tuple[Link, ...]
    issued: tuple[LinkIssued, ...]


def person(keyring: Keyring, clinic_id: UUID, patient_id: UUID, ciphertext: bytes | None) -> Person:
    """Opens a contact block; without one, or with nothing usable in it, there is no address."""
    if ciphertext is None:
        return Person()
    try:
        block = json.loads(keyring.decrypt(ciphertext, contact_context(clinic_id, patient_id)))
    except (ValueError, UnknownKey):
        return Person(is_unreadable=True)
    if not isinstance(block, dict):
        return Person(is_unreadable=True)
    wanted = {Channel.EMAIL: block.get("email"), Channel.SMS: block.get("phone")}
    return Person(name=_texts(block.get("name")), address=_texts(wanted))


def _texts(block: object) -> dict[Any, str]:
    """What is text in a block that may hold anything."""
    fields = block if isinstance(block, dict) else {}
    return {name: one for name, one in fields.items() if isinstance(one, str) and one}


def compose(
    facts: MessageFacts,
    channel: Channel,
    whom: Person,
    urls: PublicUrls,
    at: datetime,
    known: Mapping[str, str] = _NOBODY,
) -> Composed:
    """Makes the links of a message and writes its text.

    Args:
        facts: What the text says.
        channel: Way it goes; decides the form.
        whom: Who it goes to.
        urls: Where the links lead.
        at: The moment it leaves.
        known: Tokens of links that an earlier call carried: they are used again, not issued again.
    """
    language = facts.language
    purposes = _PURPOSES[facts.journey]
    tokens = {purpose: known.get(purpose) or new_token() for purpose in purposes}
    of_channel = f"{PREFERENCES}:{channel}"
    preferences = known.get(of_channel) or new_token()
    preferences_url = f"{urls.engagement}/u/{preferences}"
    zone = zone_of(facts.time_zone)
    content = render(
        facts.journey,
        channel,
        Facts(
            language=language,
            greeting=greeting(language, whom.name.get("given"), whom.name.get("middle")),
            clinic=one_line(facts.clinic_name),
            preferences_url=preferences_url,
            visited_on=written_day(facts.completed_at, zone, language)
            if facts.completed_at
            else None,
            starts_at=written_time(facts.starts_at, zone, language) if facts.starts_at else None,
            **{f"{purpose}_url": _url(urls, purpose, token) for purpose, token in tokens.items()},
        ),
    )
    to = whom.address[channel]
    text = content.text if channel is Channel.SMS else None
    # A draft keeps every token ever issued for its message, whichever way it went since.
    all_tokens = {**known, **tokens, of_channel: preferences}
    return Composed(
        Outgoing(facts.message_id, to, content, one_line(facts.clinic_name), preferences_url, at),
        Draft(channel, to, text, all_tokens),
        () if of_channel in known else (_link(facts, channel, preferences, at),),
        tuple(
            _issued(facts, purpose, token, at)
            for purpose, token in tokens.items()
            if purpose not in known
        ),
    )


def _link(facts: MessageFacts, channel: Channel, token: str, at: datetime) -> Link:
    return Link(
        clinic_id=facts.clinic_id,
        token_hash=token_hash(token),
        patient_id=facts.patient_id,
        message_id=facts.message_id,
        purpose=facts.legal_class,
        channel=channel,
        language=facts.language,
        expires_at=at + _PREFERENCES_LAST,
    )


def _url(urls: PublicUrls, purpose: str, token: str) -> str:
    return f"{urls.feedback}/s/{token}" if purpose == "survey" else f"{urls.booking}/a/{token}"


def _issued(facts: MessageFacts, purpose: str, token: str, at: datetime) -> LinkIssued:
    return LinkIssued(
        link_id=uuid4(),
        patient_id=facts.patient_id,
        purpose=purpose,
        subject_id=facts.subject_id,
        token_hash=token_hash(token),
        expires_at=facts.starts_at or at + _SURVEY_LASTS,
        language=facts.language,
        message_id=facts.message_id,
    )


def sealed_draft(keyring: Keyring, facts: MessageFacts, draft: Draft) -> bytes:
    """What is about to leave, encrypted: a repeated call must say the same."""
    block = json.dumps([draft.channel, draft.to, draft.text, {**draft.tokens}], ensure_ascii=False)
    return keyring.encrypt(block.encode(), draft_context(facts.clinic_id, facts.message_id))


def opened_draft(keyring: Keyring, facts: MessageFacts, draft: bytes | None) -> Draft | None:
    """What an earlier call said; None when there was none or it does not open any more."""
    if draft is None:
        return None
    context = draft_context(facts.clinic_id, facts.message_id)
    try:
        channel, to, text, tokens = json.loads(keyring.decrypt(draft, context))
    except (UnreadableCiphertext, UnknownKey):
        return None
    return Draft(Channel(channel), to, text, tokens)


def repeated(facts: MessageFacts, draft: Draft, at: datetime) -> Outgoing | None:
    """The SMS of an earlier call, word for word; None when that was no SMS."""
    if draft.text is None:
        return None
    clinic = one_line(facts.clinic_name)
    return Outgoing(facts.message_id, draft.to, Content(text=draft.text), clinic, "", at)


def contact_context(clinic_id: UUID, patient_id: UUID) -> bytes:
    """What a contact block is bound to; booking encrypts it so."""
    return f"{clinic_id}:{patient_id}".encode()


def draft_context(clinic_id: UUID, message_id: UUID) -> bytes:
    """What a draft is bound to."""
    return f"draft:{clinic_id}:{message_id}".encode()
