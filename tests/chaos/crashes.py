"""F1: crashes at named places."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from tests.chaos.ledger import Clinic, event_of, plan
from tests.chaos.outages import drop_log
from tests.chaos.poison import post_poison
from tests.chaos.scene import POSTS, WORKERS, Fault, Scene


def crash_at(name: str, place: str, hits: int = 1) -> Fault:
    """A fault that ends one process at one place."""

    async def fault(scene: Scene) -> None:
        await scene.crash({name: f"{place}:{hits}"})

    return fault


async def crash_about_the_decision(scene: Scene) -> None:
    """The sender dies when it has decided, and before it notes what became of a message."""
    for place in ("sender.after_decision:1", "sender.before_mark:1"):
        await scene.crash({"engagement-worker": place}, posts=POSTS // 2)


async def crash_amid_letters(scene: Scene) -> None:
    """The sender dies when letters have left; no provider's key keeps a second one from leaving."""
    scene.load.step = 2
    await scene.crash({"engagement-worker": "sender.after_provider_ok:3"})


def crash_all(relay: str, sender: str, feedback: str, scoring: str) -> Fault:
    """A fault that ends each worker at a place of its own, at about the same time."""

    async def fault(scene: Scene) -> None:
        await scene.crash(
            {
                "booking-worker": relay,
                "engagement-worker": sender,
                "feedback-worker": feedback,
                "scoring-worker": scoring,
            }
        )

    return fault


async def crash_anywhere(scene: Scene) -> None:
    """Each worker dies before or after a commit, whichever one it is."""
    places = {
        name: f"database.{scene.random.choice(('before', 'after'))}_commit"
        f":{scene.random.randrange(1, 40)}"
        for name in WORKERS
    }
    await scene.crash(places)


async def crash_amid_requests(scene: Scene) -> None:
    """The API dies before and after the commit of each kind of request; the client asks again."""
    for place in ("intake.before_commit", "intake.after_commit"):
        await scene.crash({"booking-api": f"{place}:1"}, posts=2)
    clinic = scene.trial.clinics[0]
    body = {"name": {"given": "Again"}, "language": "en"}
    for place in ("request.before_commit", "request.after_commit"):
        request = scene.insist("booking", "PUT", "/v1/patients/P-900", clinic, json=body)
        await scene.crash({"booking-api": f"{place}:1"}, load=_ignore(request))
    before = await scene.published("booking", "appointment.booked")
    starts_at = datetime.now(UTC) + timedelta(days=40)
    places = ("idempotency.after_claim", "idempotency.before_commit", "idempotency.after_commit")
    for number, place in enumerate(places):
        # Without an id of the caller's: nothing but the key tells the repeat from another booking.
        request = scene.insist(
            "booking",
            "POST",
            "/v1/appointments",
            clinic,
            json={
                "patient_id": "P-900",
                "starts_at": (starts_at + timedelta(hours=number)).isoformat(),
                "channel": "call_centre",
            },
            headers={"Idempotency-Key": f"chaos-{place}"},
        )
        await scene.crash({"booking-api": f"{place}:1"}, load=_ignore(request))
    made = await scene.published("booking", "appointment.booked") - before
    assert made == len(places), f"{made} bookings of {len(places)}"


async def crash_amid_links(scene: Scene) -> None:
    """The pages behind links die before and after they keep an answer; the patient presses again."""
    await scene.load.run(2)
    clinic = scene.trial.clinics[0]
    for number in (1, 2):
        await scene.load.post_one(clinic, _reminded_now(clinic, number))
    links: dict[str, list[str]] = {}

    async def have_letters() -> bool:
        mine = [m for m in scene.platform.providers.delivered() if clinic.owns(m.to)]
        for page in LINK_FORMS:
            links[page] = [link for m in mine if (link := m.link(page))][:2]
        return all(len(found) == 2 for found in links.values())

    await scene.until(have_letters, "a letter with each link")
    confirmed = await scene.published("booking", "appointment.confirmed")
    for number, places in enumerate(LINK_PLACES):
        await asyncio.gather(
            *(
                _press(scene, place, links[page][number])
                for place, page in zip(places, LINK_FORMS, strict=True)
            )
        )
    answered = await scene.published("feedback", "survey.answered")
    kinds = await scene.value(
        "feedback",
        "SELECT count(DISTINCT data->>'kind') FROM (SELECT convert_from(data, 'UTF8')::json AS data "
        "FROM outbox WHERE topic = 'survey.answered' AND clinic_id = ANY ($1::uuid[])) AS one",
    )
    assert answered == 2 * kinds, f"{answered} answers of 2 patients"
    confirmed = await scene.published("booking", "appointment.confirmed") - confirmed
    assert confirmed == 2, f"{confirmed} confirmations of 2"
    changed = await scene.published("engagement", "consent.changed")
    assert changed == 2, f"{changed} refusals of 2"


LINK_FORMS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "/s/": ("feedback", {"csat": "5", "nps": "10"}),
    "/u/": ("engagement", {"wanted": "no"}),
    "/a/": ("booking", {}),
}
"""By page: the service it is of, and what its form says."""
LINK_PLACES = (
    (
        "survey_link.before_commit:1",
        "preference_link.before_commit:1",
        "answer_link.before_commit:1",
    ),
    ("survey_link.after_commit:1", "preference_link.after_commit:1", "answer_link.after_commit:1"),
)


async def _press(scene: Scene, place: str, link: str) -> None:
    path = urlsplit(link).path
    service, form = LINK_FORMS[path[:3]]
    await scene.insist(service, "GET", path, None)
    answer = scene.insist(service, "POST", path, None, data=form)
    await scene.crash({f"{service}-api": place}, load=_ignore(answer))


def _reminded_now(clinic: Clinic, number: int) -> dict[str, object]:
    """An appointment that was booked an hour ago and whose reminder is due now."""
    starts_at = datetime.now(UTC) + timedelta(hours=24) - timedelta(minutes=1)
    return _booked(clinic, f"L-{number}", f"P-{number}", starts_at)


def _booked(
    clinic: Clinic, identifier: str, patient: str, starts_at: datetime
) -> dict[str, object]:
    booked_at = min(datetime.now(UTC), starts_at) - timedelta(hours=1)
    data = {"appointment_id": identifier, "patient_id": patient, **plan(starts_at, booked_at)}
    name = f"booked-{identifier}"
    return event_of(clinic.id, name, "appointment.booked", identifier, booked_at, data)


async def crash_amid_due_work(scene: Scene) -> None:
    """Timers die before and after their commit: no-show, 2Z, expiry of tasks, scores, rhythms."""
    clinic = scene.trial.clinics[0]
    await scene.load.run(2)
    await _pass_time(scene, "engagement-worker", "scoring-worker")
    await scene.crash(
        {
            "booking-worker": "no_show.before_commit:1",
            "engagement-worker": "task_expiry.before_commit:1",
            "scoring-worker": "rhythm.before_commit:1",
        },
        load=_missed(scene, "N-1"),
    )
    await scene.crash(
        {
            "booking-worker": "schedule.after_due:1",
            "engagement-worker": "two_z.before_commit:1",
            "scoring-worker": "rescore.before_commit:1",
        },
        load=_missed(scene, "N-2"),
    )
    await scene.crash(
        {"engagement-worker": "schedule.after_due:2", "scoring-worker": "schedule.after_due:1"},
        posts=4,
    )

    async def are_missed() -> bool:
        return await scene.published("booking", "appointment.no_show") >= 2

    await scene.until(are_missed, "the second no-show")
    assert await scene.published("booking", "appointment.no_show") == 2
    for identifier in ("N-1", "N-2"):
        answer = await scene.insist("booking", "GET", f"/v1/appointments/{identifier}", clinic)
        assert answer.json()["status"] == "no_show", answer.text


async def _missed(scene: Scene, identifier: str) -> None:
    """Posts visits, and an appointment whose time has passed without the patient."""
    clinic = scene.trial.clinics[0]
    starts_at = datetime.now(UTC) - timedelta(hours=3)
    await scene.load.post_one(clinic, _booked(clinic, identifier, "P-1", starts_at))
    await scene.load.run(POSTS // 2)


async def _pass_time(scene: Scene, *workers: str) -> None:
    """What a week would bring: rhythms to refresh, tasks past their age limit.

    Workers that ran on would do all that in a fifth of a second, and nothing would be left to die of.
    """

    async def have_tasks() -> bool:
        query = "SELECT count(*) FROM task WHERE clinic_id = ANY ($1::uuid[])"
        return bool(await scene.value("engagement", query))

    await scene.until(have_tasks, "a contact task")
    for name in workers:
        await asyncio.to_thread(scene.platform.processes[name].stop)
    await scene.value(
        "engagement",
        "UPDATE task SET expires_at = now() - interval '1 minute' "
        "WHERE clinic_id = ANY ($1::uuid[]) RETURNING 1",
    )
    await scene.value(
        "scoring",
        "UPDATE rhythm_due SET due_at = now() - interval '1 minute' "
        "WHERE clinic_id = ANY ($1::uuid[]) RETURNING 1",
    )


async def crash_amid_dead_letters(scene: Scene) -> None:
    """Consumers die before and after they put a bad message aside."""
    await scene.crash(
        {"scoring-worker": "consumer.before_bury:2", "feedback-worker": "consumer.after_bury:3"},
        load=_load_and_poison(scene),
    )


async def _load_and_poison(scene: Scene) -> None:
    await asyncio.gather(scene.load.run(POSTS // 2), post_poison(scene))


async def crash_amid_rebalance(scene: Scene) -> None:
    """A member dies as its partitions are taken from it, because another one joins."""
    # The first call is its own joining.
    await scene.restart("scoring-worker", failpoint="consumer.on_rebalance:2")
    load = asyncio.create_task(scene.load.run(POSTS))
    await scene.restart("scoring-worker-b")
    await scene.death("scoring-worker", "consumer.on_rebalance")
    await scene.restart("scoring-worker")
    await load
    await asyncio.to_thread(scene.platform.processes["scoring-worker-b"].stop)


async def crash_amid_refill(scene: Scene) -> None:
    """The broker comes back empty, and relays die as they notice it."""
    await scene.load.run(POSTS // 2)
    places = {
        "booking-worker": "relay.before_refill:1",
        "engagement-worker": "relay.after_refill:1",
    }
    await scene.crash(places, load=_lose_log(scene))


async def _lose_log(scene: Scene) -> None:
    await drop_log(scene)
    await scene.load.run(POSTS // 2)


async def _ignore(request: object) -> None:
    await request  # type: ignore[misc]
