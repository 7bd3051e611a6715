"""Where engagement is put together: its API and its worker."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI

from engagement.channels.sms import SmsChannel
from engagement.channels.smtp import SmtpChannel
from engagement.consent import api as consent_api
from engagement.consumers import HANDLERS
from engagement.links import pages
from engagement.messages import api as messages_api
from engagement.messages.content import PublicUrls
from engagement.messages.dispatch import ChannelPort
from engagement.messages.domain import Channel
from engagement.messages.keys import Keys
from engagement.messages.sender import MessageSender
from engagement.messages.situation import Feed
from engagement.pauses import api as pauses_api
from engagement.settings import Settings
from engagement.tasks import api as tasks_api
from engagement.tasks.schedule import TaskExpiry
from engagement.two_z import api as two_z_api
from engagement.two_z.schedule import TwoZRepair
from revisit_chassis.clock import Clock
from revisit_chassis.crypto import Keyring
from revisit_chassis.db import Database
from revisit_chassis.http import create_service_app
from revisit_chassis.runtime import api_state
from revisit_chassis.schedule import DueWork
from revisit_events import asyncapi
from revisit_events.feed import FeedStatus
from revisit_events.worker import Worker, compose_worker


def create_app(settings: Settings, *, clock: Clock | None = None) -> FastAPI:
    """Gives the API: consents, messages, contact tasks, the 2Z statement, the preferences page.

    Args:
        settings: Of the service.
        clock: Business time; by the settings when left out.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        secret = settings.callback_secret
        async with api_state(settings, clock) as state:
            app.state.chassis = state
            app.state.callback_secret = None if secret is None else secret.get_secret_value()
            yield

    app = create_service_app(
        title="Engagement",
        service="engagement",
        lifespan=lifespan,
        problems=tasks_api.PROBLEMS,
        description="Messages, consent, contact tasks and the 2Z rule.",
    )
    for module in (consent_api, messages_api, pauses_api, tasks_api, two_z_api, pages):
        app.include_router(module.router)
    app.include_router(asyncapi.routes("engagement"))
    return app


def build_worker(settings: Settings, *, clock: Clock) -> Worker:
    """Gives the worker: consumer, relay, sender, the 2Z repair, ageing of tasks.

    Args:
        settings: Of the service.
        clock: Business time.
    """
    database = Database(settings.address("app"), pool_size=4, application_name="engagement-sender")
    channels = _channels(settings)

    def schedule(worker_database: Database, feed: FeedStatus) -> Sequence[DueWork]:
        return [
            MessageSender(
                database,
                worker_database,
                keys=Keys(lambda: Keyring.load(settings.keyring)),
                channels=channels,
                urls=PublicUrls(
                    engagement=settings.public_url,
                    booking=settings.booking_public_url,
                    feedback=settings.feedback_public_url,
                ),
                feed=lambda: Feed(feed.is_fresh(), feed.heard_until()),
            ),
            TwoZRepair(worker_database),
            TaskExpiry(worker_database),
        ]

    return compose_worker(
        settings,
        clock,
        HANDLERS,
        schedule,
        at_end=[database.close, *(channel.close for channel in channels.values())],
    )


def _channels(settings: Settings) -> dict[Channel, ChannelPort]:
    channels: dict[Channel, ChannelPort] = {}
    if settings.smtp_url is not None:
        channels[Channel.EMAIL] = SmtpChannel(
            settings.smtp_url.get_secret_value(), settings.mail_sender
        )
    if settings.sms_url is not None:
        channels[Channel.SMS] = SmsChannel(settings.sms_url.get_secret_value(), settings.sms_sender)
    return channels
