"""Consent statements, which of them stands, and the hash chain of the ledger. Pure.

The ledger is append-only: one chain for each patient of a clinic, each entry carrying the digest of
the one before it. The digest covers no personal datum, so that erasing a patient leaves the chain
verifiable.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from uuid import UUID

GENESIS = "0" * 64
CLOCKS_MAY_DIFFER = timedelta(minutes=5)


class Purpose(StrEnum):
    """What a patient is asked about; the legal classes of messages."""

    SERVICE = "service"
    CARE = "care"
    ADVERTISING = "advertising"


class ConsentState(StrEnum):
    """What the patient said."""

    GRANTED = "granted"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Statement:
    """What a patient said about one purpose in one channel, with the wording and where it was said."""

    purpose: Purpose
    channel: str
    state: ConsentState
    wording_version: str
    source: str
    given_at: datetime


@dataclass(frozen=True, slots=True)
class Entry:
    """A statement as the ledger holds it.

    Args:
        recorded_at: When it came in.
    """

    statement: Statement
    recorded_at: datetime

    @property
    def effective_at(self) -> datetime:
        """From when on it counts: nobody can say today what they will say tomorrow.

        A grant with a date ahead of its recording would otherwise outrank every refusal until that
        date, and nobody could unsubscribe.
        """
        return min(self.statement.given_at, self.recorded_at)


def stands_over(new: Entry, old: Entry | None) -> bool:
    """Whether an entry replaces the one that stands: the later one; at the same moment a refusal.

    The place in the ledger plays no part, so that every replay of it ends the same.
    """
    if old is None:
        return True
    return _weight(new) > _weight(old)


def _weight(entry: Entry) -> tuple[datetime, bool, str, str]:
    statement = entry.statement
    refused = statement.state is ConsentState.REFUSED
    return entry.effective_at, refused, statement.wording_version, statement.source


def is_too_far_ahead(given_at: datetime, now: datetime) -> bool:
    """Whether a statement claims to have been made later than clocks may differ."""
    return given_at > now + CLOCKS_MAY_DIFFER


def entry_hash(
    previous: str, clinic_id: UUID, patient_id: UUID, position: int, entry: Entry
) -> str:
    """SHA-256 of an entry and of the chain before it, over canonical JSON.

    Args:
        previous: Digest of the entry before, `GENESIS` for the first.
        clinic_id: Tenant.
        patient_id: A pseudonym once the patient's contact is erased.
        position: Place in the chain, from 1.
        entry: What was said, and when it came in: both decide what stands.
    """
    statement = entry.statement
    fields = [
        previous,
        str(clinic_id),
        str(patient_id),
        position,
        statement.purpose,
        statement.channel,
        statement.state,
        statement.wording_version,
        statement.source,
        statement.given_at.astimezone(UTC).isoformat(),
        entry.recorded_at.astimezone(UTC).isoformat(),
    ]
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def first_break(
    clinic_id: UUID,
    patient_id: UUID,
    entries: Iterable[tuple[int, Entry, str]],
    head: tuple[int, str],
) -> int | None:
    """The position of the first entry that does not fit the chain, or None when all fit.

    Args:
        clinic_id: Tenant.
        patient_id: Whose chain.
        entries: (position, entry, digest) in order of position.
        head: Length and last digest as kept apart from the entries: shows a chain that was cut
            short.
    """
    previous, length = GENESIS, 0
    for position, entry, digest in entries:
        expected = entry_hash(previous, clinic_id, patient_id, position, entry)
        if position != length + 1 or digest != expected:
            return length + 1
        previous, length = digest, position
    return None if (length, previous) == head else length + 1
