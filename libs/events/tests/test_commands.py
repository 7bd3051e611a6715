"""The commands of an operator, run as they are typed."""

import argparse
import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from revisit_chassis.db import Database
from revisit_chassis.settings import ServiceSettings
from revisit_events import dlq, outbox, testing
from revisit_events.commands import add_commands, run_command
from revisit_events.contracts import TokenRevoked, VisitCompleted
from revisit_events.dlq import Raw
from revisit_events.envelope import AnyEvent
from revisit_events.handlers import Handlers
from revisit_events.rebuild import rebuild
from revisit_events.replay import replay_outbox
from scoring.consumers import PROJECTIONS
from scoring.settings import Settings
from standalone.cluster import Cluster, ServiceDatabase

Run = Callable[..., Awaitable[tuple[int, list[str]]]]


class Handler:
    """Notes what it was given; fails as long as it is told to."""

    def __init__(self) -> None:
        self.is_broken = False
        self.ids: list[str] = []

    async def __call__(
        self,
        connection: AsyncConnection,  # noqa: ARG002  (a handler's signature)
        events: Sequence[Any],
        now: datetime,  # noqa: ARG002
    ) -> None:
        if self.is_broken:
            raise KeyError("somebody's name")
        self.ids += [event.id for event in events]


@pytest.fixture
def made(postgres: Cluster) -> ServiceDatabase:
    return postgres.create("scoring")


@pytest.fixture
async def database(made: ServiceDatabase) -> AsyncIterator[Database]:
    database = Database(made.database_url)
    yield database
    await database.close()


@pytest.fixture
async def worker(made: ServiceDatabase) -> AsyncIterator[Database]:
    database = Database(made.worker_database_url)
    yield database
    await database.close()


@pytest.fixture
def handler() -> Handler:
    return Handler()


@pytest.fixture
def run(made: ServiceDatabase, handler: Handler) -> Run:
    settings: ServiceSettings = Settings(
        database_url=made.database_url,
        worker_database_url=made.worker_database_url,
        KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:9",
    )

    async def run(*typed: object) -> tuple[int, list[str]]:
        lines: list[str] = []
        arguments = parse(*typed)
        code = await asyncio.to_thread(
            run_command, arguments, settings, {VisitCompleted: handler}, PROJECTIONS, lines.append
        )
        return code, lines

    return run


def parse(*typed: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers(dest="command", required=True))
    return parser.parse_args([str(word) for word in typed])


async def bury(database: Database, event: AnyEvent, offset: int = 0) -> uuid.UUID:
    headers = outbox.record_headers(outbox.message_of(event))
    raw = Raw(event.topic, 0, offset, event.key.encode(), event.data_json(), headers)
    async with database.connect() as connection:
        await dlq.keep(connection, "scoring", raw, reason="handler", error=ValueError())
    return dlq.dead_letter_id(raw)


async def test_dead_letters_are_listed_replayed_and_discarded(
    run: Run, database: Database, worker: Database, handler: Handler
) -> None:
    events = [testing.visit_completed() for _ in range(3)]
    ids = [await bury(database, event, n) for n, event in enumerate(events)]
    code, lines = await run("dlq", "list")
    assert code == 0
    assert [json.loads(line)["id"] for line in lines] == [str(one) for one in ids]
    assert events[0].data_json().decode() not in "".join(lines)
    assert await run("dlq", "replay", ids[0]) == (0, [f"{ids[0]} replayed"])
    assert handler.ids == [events[0].id]
    assert await run("dlq", "discard", ids[1]) == (0, [f"{ids[1]} discarded"])
    assert (await run("dlq", "replay", ids[0]))[0] == 1
    assert (await run("dlq", "replay"))[0] == 2
    assert [one.dead_letter_id for one in await dlq.open_letters(worker)] == [ids[2]]


async def test_replay_that_fails_is_counted_and_the_others_go_on(
    run: Run, database: Database, worker: Database, handler: Handler
) -> None:
    for offset in range(dlq.PAGE + 5):
        await bury(database, testing.visit_completed(), offset)
    handler.is_broken = True
    code, lines = await run("dlq", "replay", "--all")
    assert code == 1
    assert len(lines) == dlq.PAGE + 5
    assert "somebody" not in "".join(lines)
    letters = await dlq.open_letters(worker, 1000)
    assert {(one.attempts, one.error) for one in letters} == {(2, "KeyError")}
    handler.is_broken = False
    assert (await run("dlq", "replay", "--all"))[0] == 0
    assert await dlq.open_letters(worker) == []


async def test_topic_that_does_not_exist_is_not_replayed(run: Run) -> None:
    code, lines = await run(
        "outbox", "replay", "--topic", "visit.complete", "--since", "2026-01-01T00:00:00Z"
    )
    assert code == 2
    assert "visit.complete" in lines[0]


@pytest.mark.parametrize("since", ["yesterday", "2026-01-01T00:00:00"])
def test_time_that_is_none_is_refused_with_an_example(
    since: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse("outbox", "replay", "--topic", "visit.completed", "--since", since)
    assert "2026-01-12T09:00:00+03:00" in capsys.readouterr().err


async def test_outbox_tells_what_waits_and_what_was_put_aside(run: Run, worker: Database) -> None:
    assert await run("outbox", "status") == (0, ["0 waiting for the relay", "0 put aside"])
    assert await run("outbox", "unsendable") == (0, [])
    assert (await run("outbox", "retry", "7"))[0] == 1


async def test_replay_takes_a_span_of_recording_and_whole_compacted_topics(
    database: Database, worker: Database
) -> None:
    contact = testing.patient_contact_changed()
    gone = replace(contact, id="gone", data=msgspec.structs.replace(contact.data, contact=None))
    async with database.transaction((contact.clinic_id,)) as connection:
        await outbox.publish(connection, [testing.visit_completed(), contact])
    border = datetime.now(UTC)
    await asyncio.sleep(0.01)
    async with database.transaction((contact.clinic_id,)) as connection:
        await outbox.publish(connection, [testing.visit_completed(), gone])
    async with worker.connect() as connection:
        await connection.exec_driver_sql("DELETE FROM outbox_unsent")
    early, late = border - timedelta(days=1), border + timedelta(days=1)
    assert await replay_outbox(worker, "visit.completed", early, border) == 1
    assert await replay_outbox(worker, "visit.completed", early, border) == 0
    assert await replay_outbox(worker, "visit.completed", border, late) == 1
    # The tombstone goes with what it removed, or a contact that was erased would come back.
    assert await replay_outbox(worker, "patient.contact_changed", early, border) == 2


async def test_rebuild_runs_the_handlers_of_the_listed_tables_only(database: Database) -> None:
    handler, other = Handler(), Handler()
    handlers: Handlers = {VisitCompleted: handler, TokenRevoked: other}
    assert (
        await rebuild(
            database, handlers, {"visit_fact": (VisitCompleted,)}, uuid.uuid4(), testing.NOON
        )
        == 0
    )
    assert other.ids == []
