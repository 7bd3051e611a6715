"""The loop that sends what is due: claim, decide, call the providers, settle.

Leases, retries and deadlines are real time; what is due is business time. A message
leaves once, and the gate is the last step before a provider. One odd message spoils no batch:
what fails together is tried one by one, and what fails alone ends with a decision that says so.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import structlog

from engagement.messages import store, usecases
from engagement.messages.content import PublicUrls
from engagement.messages.dispatch import ChannelPort, Dispatch, Result
from engagement.messages.domain import Channel, Outcome, SendResult
from engagement.messages.judge import Ready
from engagement.messages.keys import Keys
from engagement.messages.situation import Feed
from engagement.messages.store import Claim
from engagement.messages.usecases import Desk
from revisit_chassis.clock import Clock
from revisit_chassis.db import Database, is_infrastructure_fault
from revisit_chassis.failpoint import failpoint

LEASE = timedelta(seconds=120)
# No call begins this close to the end of the lease: its answer could come after somebody else's
# claim.
LAST_CALL = timedelta(seconds=45)
BATCH = 100
_AGAIN_SECONDS = 0.2

log = structlog.get_logger()


class MessageSender:
    """Due work: the messages of all clinics.

    Args:
        database: Of the unprivileged user: judges and settles inside named clinics.
        worker_database: Of the worker's user: sees which messages of all clinics are due.
        keys: Open contacts.
        channels: The configured ways out.
        urls: Where the links in messages lead.
        feed: Asked before every decision.
        batch: Messages taken at a time.
    """

    name = "messages"

    def __init__(
        self,
        database: Database,
        worker_database: Database,
        *,
        keys: Keys,
        channels: Mapping[Channel, ChannelPort],
        urls: PublicUrls,
        feed: Callable[[], Feed],
        batch: int = BATCH,
    ) -> None:
        self._database = database
        self._worker_database = worker_database
        self._keys = keys
        self._channels = channels
        self._urls = urls
        self._feed = feed
        self._batch = batch

    async def run_due(self, clock: Clock) -> int:
        """Sends one batch of what is due, oldest first; returns how many messages were taken."""
        lease_until = _real_now() + LEASE
        claims = await self._claim(clock, lease_until)
        if not claims:
            return 0
        failpoint("sender.after_claim")
        ready = await self._prepare(claims, clock, lease_until)
        failpoint("sender.after_decision")
        if ready:
            await self._send(ready, clock, lease_until)
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
        try:
            return await self._decide(claims, clock, lease_until)
        except Exception as error:
            if is_infrastructure_fault(error):
                raise
            log.warning("message.batch_not_judged", error=type(error).__name__, size=len(claims))
        ready: list[Ready] = []
        for claim in claims:
            ready += await self._prepare_alone(claim, clock, lease_until)
        return ready

    async def _prepare_alone(
        self, claim: Claim, clock: Clock, lease_until: datetime
    ) -> list[Ready]:
        try:
            return await self._decide([claim], clock, lease_until)
        except Exception as error:
            if is_infrastructure_fault(error):
                raise
            log.exception("message.not_judged", message_id=str(claim.message_id))
            await self._end_odd(claim, type(error).__name__, clock)
            return []

    async def _end_odd(self, claim: Claim, error: str, clock: Clock) -> None:
        try:
            async with self._database.transaction((claim.clinic_id,)) as connection:
                await usecases.end_odd(connection, claim, error, clock)
        except Exception as second:
            if is_infrastructure_fault(second):
                raise
            # It comes back when its lease is over, and harms no other message until then.
            log.exception("message.not_ended", message_id=str(claim.message_id))

    async def _decide(
        self, claims: Sequence[Claim], clock: Clock, lease_until: datetime
    ) -> list[Ready]:
        desk = self._desk()
        async with self._database.transaction({one.clinic_id for one in claims}) as connection:
            return await usecases.prepare(connection, claims, desk, clock, _real_now(), lease_until)

    def _desk(self) -> Desk:
        return Desk(self._keys, self._urls, frozenset(self._channels), self._feed())

    async def _send(self, ready: Sequence[Ready], clock: Clock, lease_until: datetime) -> None:
        async def confirm(group: Sequence[Ready]) -> Mapping[UUID, bool]:
            return await self._confirm(group, clock, lease_until)

        async def call(one: Ready) -> SendResult:
            return await self._call(one, lease_until)

        async def settle(results: Sequence[Result]) -> None:
            await self._settle(results, clock, lease_until)

        await Dispatch(confirm, call, settle).run(ready, self._channels)

    async def _confirm(
        self, ready: Sequence[Ready], clock: Clock, lease_until: datetime
    ) -> Mapping[UUID, bool]:
        """The last look before the calls; without a database nothing leaves."""
        clinics = {one.facts.clinic_id for one in ready}
        while True:
            try:
                async with self._database.transaction(clinics) as connection:
                    return await usecases.confirm(
                        connection, ready, clock, is_feed_fresh=self._feed().is_fresh
                    )
            except Exception as error:
                is_passing = is_infrastructure_fault(error)
                if not is_passing:
                    # Raised, it would break off the calls that are under way.
                    log.exception("message.not_confirmed", size=len(ready))
                if not is_passing or _real_now() > lease_until - LAST_CALL:
                    return {one.facts.message_id: False for one in ready}
                log.warning("message.look_again", error=type(error).__name__)
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _call(self, one: Ready, lease_until: datetime) -> SendResult:
        if _real_now() > lease_until - LAST_CALL:
            return SendResult(Outcome.RETRY, "out_of_time")
        failpoint("sender.before_send")
        try:
            result = await self._channels[one.channel].send(one.outgoing)
        except Exception as error:
            # A defect of the channel: it may have got as far as the provider.
            log.exception("message.call_failed", message_id=str(one.facts.message_id))
            detail = f"fault_{type(error).__name__}"
            if one.channel is Channel.EMAIL:
                return SendResult(Outcome.UNCERTAIN, detail)
            return SendResult(Outcome.RETRY, detail, may_have_arrived=True)
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

    async def _settle(self, results: Sequence[Result], clock: Clock, lease_until: datetime) -> None:
        try:
            await self._write(results, clock, lease_until)
        except Exception as error:  # noqa: BLE001  # told apart here
            if is_infrastructure_fault(error):
                # The lease is over: whoever claims them next finds them called and unanswered.
                log.error("message.not_settled", error=type(error).__name__, size=len(results))  # noqa: TRY400  # expected
                return
            log.warning("message.batch_not_settled", error=type(error).__name__, size=len(results))
            for ready, result in results:
                await self._settle_alone(ready, result, clock, lease_until)
        failpoint("sender.after_mark")

    async def _settle_alone(
        self, ready: Ready, result: SendResult, clock: Clock, lease_until: datetime
    ) -> None:
        """Writes one outcome; one that cannot be written leaves a message nobody can vouch for."""
        for told in (result, SendResult(Outcome.UNCERTAIN, "answer_not_recorded")):
            try:
                await self._write([(ready, told)], clock, lease_until)
            except Exception as error:
                if is_infrastructure_fault(error):
                    raise
                log.exception(
                    "message.not_settled",
                    message_id=str(ready.facts.message_id),
                    error=type(error).__name__,
                )
            else:
                return

    async def _write(self, results: Sequence[Result], clock: Clock, lease_until: datetime) -> None:
        """Keeps trying while the lease holds: every outcome lost here is an uncertain letter."""
        clinics = {ready.facts.clinic_id for ready, _ in results}
        while True:
            try:
                async with self._database.transaction(clinics) as connection:
                    await usecases.settle(connection, results, clock.now(), _real_now())
                    failpoint("sender.before_mark")
            except Exception as error:
                if not is_infrastructure_fault(error) or _real_now() > lease_until:
                    raise
                log.warning("message.settle_again", error=type(error).__name__)
                await asyncio.sleep(_AGAIN_SECONDS)
            else:
                return


def _real_now() -> datetime:
    return datetime.now(UTC)
