"""The loop that sends what is due: claim, decide, call the providers, settle.

Leases, retries and deadlines are real time; what is due is business time. Protects I2 (a message
leaves once) and I6 (the gate is the last step before a provider).
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

import structlog

from engagement.channels.domain import Outgoing
from engagement.messages import store, usecases
from engagement.messages.content import PublicUrls
from engagement.messages.domain import Channel, Outcome, SendResult
from engagement.messages.store import Claim
from engagement.messages.usecases import Desk, Ready
from revisit_chassis.clock import Clock
from revisit_chassis.crypto import Keyring
from revisit_chassis.db import Database, is_infrastructure_fault
from revisit_chassis.failpoint import failpoint

LEASE = timedelta(seconds=120)
# No call begins this close to the end of the lease: its answer could come after somebody else's
# claim.
LAST_CALL = timedelta(seconds=45)
BATCH = 100
_SETTLE_PAUSE_SECONDS = 0.2

log = structlog.get_logger()


class ChannelPort(Protocol):
    """A way out; never raises for what a provider or a network does."""

    async def send(self, outgoing: Outgoing) -> SendResult:
        """Hands one message in."""

    async def close(self) -> None:
        """Closes the connections."""


class MessageSender:
    """Due work: the messages of all clinics.

    Args:
        database: Of the unprivileged user: judges and settles inside named clinics.
        worker_database: Of the worker's user: sees which messages of all clinics are due.
        keyring: Opens contacts.
        channels: The configured ways out.
        urls: Where the links in messages lead.
        is_feed_fresh: Asked once a batch.
        batch: Messages taken at a time.
    """

    name = "messages"

    def __init__(
        self,
        database: Database,
        worker_database: Database,
        *,
        keyring: Keyring,
        channels: Mapping[Channel, ChannelPort],
        urls: PublicUrls,
        is_feed_fresh: Callable[[], bool],
        batch: int = BATCH,
    ) -> None:
        self._database = database
        self._worker_database = worker_database
        self._keyring = keyring
        self._channels = channels
        self._urls = urls
        self._is_feed_fresh = is_feed_fresh
        self._batch = batch

    async def run_due(self, clock: Clock) -> int:
        """Sends one batch of what is due, oldest first; returns how many messages were taken."""
        lease_until = _real_now() + LEASE
        claims = await self._claim(clock, lease_until)
        if not claims:
            return 0
        failpoint("sender.after_claim")
        ready = await self._prepare(claims, clock, lease_until)
        if ready:
            failpoint("sender.before_send")
            results = await self._send(ready, lease_until)
            await self._settle(results, clock, lease_until)
            failpoint("sender.after_mark")
        return len(claims)

    async def next_due_at(self) -> datetime | None:
        """When the next message is due, in business time."""
        async with self._worker_database.single() as connection:
            return await store.next_due_at(connection, _real_now())

    async def _claim(self, clock: Clock, lease_until: datetime) -> list[Claim]:
        async with self._worker_database.connect() as connection:
            return await store.claim(connection, clock.now(), _real_now(), lease_until, self._batch)

    async def _prepare(
        self, claims: Sequence[Claim], clock: Clock, lease_until: datetime
    ) -> list[Ready]:
        desk = Desk(self._keyring, self._urls, frozenset(self._channels), self._is_feed_fresh())
        async with self._database.transaction({one.clinic_id for one in claims}) as connection:
            return await usecases.prepare(connection, claims, desk, clock, _real_now(), lease_until)

    async def _send(
        self, ready: Sequence[Ready], lease_until: datetime
    ) -> list[tuple[Ready, SendResult]]:
        """Calls the providers side by side; each channel bounds its own connections."""
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(self._call(one, lease_until)) for one in ready]
        return [(one, call.result()) for one, call in zip(ready, calls, strict=True)]

    async def _call(self, one: Ready, lease_until: datetime) -> SendResult:
        if _real_now() > lease_until - LAST_CALL:
            return SendResult(Outcome.RETRY, "out_of_time")
        result = await self._channels[one.channel].send(one.outgoing)
        if result.outcome is Outcome.SENT:
            failpoint("sender.after_provider_ok")
        else:
            log.warning(
                "message.not_sent",
                message_id=str(one.facts.message_id),
                channel=one.channel.value,
                outcome=result.outcome.value,
                detail=result.detail,
                attempt=one.calls,
            )
        return result

    async def _settle(
        self, results: Sequence[tuple[Ready, SendResult]], clock: Clock, lease_until: datetime
    ) -> None:
        """Keeps trying while the lease holds: every outcome lost here is an uncertain letter."""
        clinics = {ready.facts.clinic_id for ready, _ in results}
        while True:
            try:
                async with self._database.transaction(clinics) as connection:
                    await usecases.settle(connection, results, clock.now(), _real_now())
            except Exception as error:
                if not is_infrastructure_fault(error) or _real_now() > lease_until:
                    raise
                log.warning("message.settle_again", error=type(error).__name__)
                await asyncio.sleep(_SETTLE_PAUSE_SECONDS)
            else:
                return


def _real_now() -> datetime:
    return datetime.now(UTC)
