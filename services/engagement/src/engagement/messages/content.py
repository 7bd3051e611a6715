"""From a message's facts to what leaves: whom it goes to, its links, its text. No I/O.

The links are made here, at the last moment, because nothing but their digests is ever stored.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from engagement.channels.domain import Outgoing
from engagement.journeys.domain import FOLLOW_UP, REMINDER
from engagement.links.domain import Link, new_token, token_hash
from engagement.messages.domain import Channel
from engagement.messages.windows import zone_of
from engagement.rendering.domain import (
    greeting,
    one_line,
    supported_language,
    written_day,
    written_time,
)
from engagement.rendering.render import Content, Facts, render
from revisit_chassis.crypto import Keyring, UnreadableCiphertext
from revisit_events.contracts import LinkIssued

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
    """A patient's contact block, in clear: never logged, its text form shows nothing."""

    name: Mapping[str, str] = field(default_factory=dict, repr=False)
    address: Mapping[Channel, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class MessageFacts:
    """What a text is filled with."""

    clinic_id: UUID
    message_id: UUID
    patient_id: UUID
    journey: str
    legal_class: str
    subject_id: UUID
    clinic_name: str
    time_zone: str
    language: str
    completed_at: datetime | None
    starts_at: datetime | None


@dataclass(frozen=True, slots=True)
class Composed:
    """A message ready to leave, the links it carries, and what is published about them."""

    outgoing: Outgoing
    preferences: Link
    issued: tuple[LinkIssued, ...]


def person(keyring: Keyring, clinic_id: UUID, patient_id: UUID, ciphertext: bytes | None) -> Person:
    """Opens a contact block; one that is missing or does not open is a person without an address."""
    if ciphertext is None:
        return Person()
    try:
        block = json.loads(keyring.decrypt(ciphertext, f"{clinic_id}:{patient_id}".encode()))
    except UnreadableCiphertext:
        return Person()
    address = {Channel.EMAIL: block.get("email"), Channel.SMS: block.get("phone")}
    return Person(
        name=block.get("name") or _NOBODY,
        address={channel: to for channel, to in address.items() if to},
    )


def compose(
    facts: MessageFacts, channel: Channel, whom: Person, urls: PublicUrls, at: datetime
) -> Composed:
    """Makes the links of a message and writes its text.

    Args:
        facts: What the text says.
        channel: Way it goes; decides the form.
        whom: Who it goes to.
        urls: Where the links lead.
        at: The moment it leaves.
    """
    language = facts.language
    tokens = {purpose: new_token() for purpose in _PURPOSES[facts.journey]}
    preferences = new_token()
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
    return Composed(
        Outgoing(facts.message_id, to, content, one_line(facts.clinic_name), preferences_url, at),
        Link(
            clinic_id=facts.clinic_id,
            token_hash=token_hash(preferences),
            patient_id=facts.patient_id,
            message_id=facts.message_id,
            purpose=facts.legal_class,
            channel=channel,
            language=language,
            expires_at=at + _PREFERENCES_LAST,
        ),
        tuple(_issued(facts, purpose, token, at) for purpose, token in tokens.items()),
    )


def language_of(patient: str | None, clinic: str) -> str:
    """The language a message is written in."""
    return supported_language(patient, clinic)


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


def sealed_draft(keyring: Keyring, facts: MessageFacts, outgoing: Outgoing) -> bytes:
    """An SMS as it is about to leave, encrypted: a repeated call must say the same."""
    block = json.dumps([outgoing.to, outgoing.content.text], ensure_ascii=False)
    return keyring.encrypt(block.encode(), _draft_context(facts))


def opened_draft(
    keyring: Keyring, facts: MessageFacts, draft: bytes, at: datetime
) -> Outgoing | None:
    """The SMS of an earlier call; None when it does not open any more."""
    try:
        to, text = json.loads(keyring.decrypt(draft, _draft_context(facts)))
    except UnreadableCiphertext:
        return None
    return Outgoing(facts.message_id, to, Content(text=text), one_line(facts.clinic_name), "", at)


def _draft_context(facts: MessageFacts) -> bytes:
    return f"draft:{facts.clinic_id}:{facts.message_id}".encode()
