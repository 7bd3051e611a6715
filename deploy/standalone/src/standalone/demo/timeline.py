"""Happenings in the order in which a clinic's software tells them.

A source (the simulator or a file) gives appointments one by one; their events are put on disk and come back
sorted, so that memory stays flat whatever the size.

Shuffled, bookings and patients are told late, by up to weeks: visits before their patients, cancellations
before their bookings, and what is told in the same chunk in no order at all. No fact is told so late that
a message which depends on it would have left meanwhile: then another message would be right, and the
totals could not be the same. Cancellations, no-shows and visits are never late for the same reason.
"""

import json
import math
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from pathlib import Path
from typing import Any
from uuid import UUID

from revisit_chassis.identifiers import canonical_id
from standalone.demo.happenings import Appointment, Person, text_of

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Happening:
    """An event, or a patient whom the clinic's software tells of."""

    event: dict[str, Any] | None = None
    person: Person | None = None


class Timeline:
    """Happenings on disk, sorted by the time at which they are told.

    Args:
        path: A file that is made anew.
        clinic_id: Whose they are.
        shuffle: Seed of the disorder; none tells everything when it happens.
        until: What happens from here on is not known yet: appointments booked before are still ahead.
    """

    def __init__(
        self,
        path: Path,
        clinic_id: UUID,
        *,
        shuffle: int | None = None,
        until: datetime | None = None,
    ) -> None:
        self._clinic_id = clinic_id
        self._shuffle = shuffle
        self._until = until
        path.unlink(missing_ok=True)
        self._database = sqlite3.connect(path)
        self._database.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;"
            "CREATE TABLE happening (told_at TEXT, place TEXT, event TEXT, patient TEXT);"
            "CREATE TABLE person (id TEXT PRIMARY KEY, canonical_id TEXT, body TEXT, at TEXT, told_by TEXT)"
            " WITHOUT ROWID;"
            "CREATE TABLE appointment (id TEXT PRIMARY KEY, starts_at TEXT, lost_at TEXT) WITHOUT ROWID;"
        )

    def fill(self, appointments: Iterable[Appointment]) -> None:
        """Takes all appointments of a source, one at a time."""
        number = 0
        for appointment in appointments:
            if self._until is not None and appointment.booked_at >= self._until:
                continue
            lost_at = None
            for event in appointment.events():
                at = datetime.fromisoformat(event["time"])
                if self._until is not None and at >= self._until:
                    continue
                number += 1
                told_by = at
                if event["type"] == "appointment.booked.v1":
                    told_by = appointment.booking_told_by()
                elif event["type"] != "visit.completed.v1":
                    lost_at = event["time"]
                self._tell(event["id"], at, told_by, f"{number:010d}", json.dumps(event), None)
            self._keep(appointment, lost_at)
        for person in self._database.execute("SELECT id, at, told_by FROM person").fetchall():
            at, told_by = (datetime.fromisoformat(text) for text in person[1:])
            self._tell(person[0], at, told_by, "", None, person[0])
        self._database.executescript(
            "CREATE INDEX happening_told_at ON happening (told_at);"
            "CREATE INDEX person_canonical_id ON person (canonical_id);"
        )
        self._database.commit()

    def _tell(
        self,
        name: str,
        at: datetime,
        told_by: datetime,
        place: str,
        event: str | None,
        patient: str | None,
    ) -> None:
        """Puts down when something is told: when it happens, or at a moment drawn until `told_by`."""
        told_at = at
        if self._shuffle is not None:
            digest = blake2b(f"{self._shuffle} {name}".encode(), digest_size=16).digest()
            share = int.from_bytes(digest[:8]) / 2**64
            told_at = at + max(told_by - at, timedelta()) * share
            place = digest[8:].hex()
        self._database.execute(
            "INSERT INTO happening VALUES (?, ?, ?, ?)", (text_of(told_at), place, event, patient)
        )

    def _keep(self, appointment: Appointment, lost_at: str | None) -> None:
        person = appointment.person
        self._database.execute(
            "INSERT INTO person VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE "
            "SET at = min(at, excluded.at), told_by = min(told_by, excluded.told_by)",
            (
                person.id,
                str(canonical_id(self._clinic_id, "patient", person.id)),
                json.dumps([getattr(person, name) for name in Person.__slots__]),
                text_of(appointment.booked_at),
                text_of(appointment.patient_told_by()),
            ),
        )
        self._database.execute(
            "INSERT INTO appointment VALUES (?, ?, ?)",
            (
                str(canonical_id(self._clinic_id, "appointment", appointment.id)),
                text_of(appointment.starts_at),
                lost_at,
            ),
        )

    @property
    def appointments(self) -> int:
        """Number of appointments."""
        return self._count("appointment")

    @property
    def patients(self) -> int:
        """Number of patients."""
        return self._count("person")

    @property
    def happenings(self) -> int:
        """Number of events and patients to tell of."""
        return self._count("happening")

    def span(self) -> tuple[datetime, datetime]:
        """Gives the time of the first and the last happening."""
        row = self._database.execute("SELECT min(told_at), max(told_at) FROM happening").fetchone()
        if row[0] is None:
            raise ValueError("there is no appointment in it")
        return datetime.fromisoformat(row[0]), datetime.fromisoformat(row[1])

    def chunks(self, length: timedelta) -> Iterator[tuple[datetime, list[Happening]]]:
        """Gives what is told up to each end of a chunk that is not empty.

        What is told at the end itself belongs to it: the clock is set to it next, and what is due then must
        not overtake what the clinic tells in the same moment. Chunks end at multiples of their length,
        however early the first happening is, so that the clock stands still at the same moments when the
        same is told in another order.

        Args:
            length: Of a chunk.
        """
        # Shuffled, nothing is in order within a chunk; else a patient comes before all events.
        order = "told_at, place" if self._shuffle is None else "place"
        told = ""
        while first := self._database.execute(
            "SELECT min(told_at) FROM happening WHERE told_at > ?", (told,)
        ).fetchone()[0]:
            end = _EPOCH + math.ceil((datetime.fromisoformat(first) - _EPOCH) / length) * length
            rows = self._database.execute(
                "SELECT event, person.body FROM happening LEFT JOIN person ON person.id = patient "  # noqa: S608
                f"WHERE told_at > ? AND told_at <= ? ORDER BY {order}",
                (told, text_of(end)),
            )
            yield (
                end,
                [
                    Happening(event=json.loads(event))
                    if event is not None
                    else Happening(person=Person(*json.loads(body)))
                    for event, body in rows
                ],
            )
            told = text_of(end)

    def ahead(self, now: datetime) -> int:
        """Gives how many appointments are still ahead.

        Args:
            now: Business time.
        """
        asked = "SELECT count(*) FROM appointment WHERE starts_at > ? AND lost_at IS NULL"
        count: int = self._database.execute(asked, (text_of(now),)).fetchone()[0]
        return count

    def identifier_of(self, patient_id: str) -> str:
        """Gives the clinic's own identifier of a patient, by the platform's id."""
        row = self._database.execute(
            "SELECT id FROM person WHERE canonical_id = ?", (patient_id,)
        ).fetchone()
        return str(row[0]) if row else patient_id

    def was_pointless(self, appointment_id: str, sent_at: datetime) -> bool:
        """Tells whether a reminder went out for an appointment that was over, cancelled or missed."""
        row = self._database.execute(
            "SELECT starts_at, lost_at FROM appointment WHERE id = ?", (appointment_id,)
        ).fetchone()
        at = text_of(sent_at)
        return row is None or at >= row[0] or (row[1] is not None and at >= row[1])

    def close(self) -> None:
        """Closes the file."""
        self._database.close()

    def _count(self, table: str) -> int:
        count: int = self._database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
        return count
