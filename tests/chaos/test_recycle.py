"""The embedded default dies in the middle of a recycle: the old log is handed over, the new one not there."""

import os
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from revisit_chassis.failpoint import KILLED
from tests.e2e.conftest import BATCH_TYPE, Standalone, clinic_body, visit

BATCH = 10
COMPLETED_AT = "2026-01-12T12:00:00+03:00"
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


@pytest.fixture
def standalone(tmp_path: Path) -> Iterator[Standalone]:
    running = Standalone(tmp_path)
    yield running
    running.stop()
    running.remove()


def test_death_between_two_logs_loses_and_doubles_nothing(standalone: Standalone) -> None:
    # Any broker is past one MiB, so it is recycled at each look. The first may come while the platform is
    # still starting on a slow machine, before there is anything to lose.
    limits = {"EMBEDDED_BROKER_MAX_MIB": "1", "FAILPOINT": "recycle.after_hand_over:2"}
    standalone.start(os.environ | limits)
    assert standalone.process is not None
    clinic_id = uuid.uuid4()
    with standalone.client(standalone.ready["admin_token"]) as admin:
        admin.put(f"/booking/v1/clinics/{clinic_id}", json=clinic_body()).raise_for_status()
    sent = 0
    with standalone.client(standalone.token("admin", clinic_id)) as client:
        while standalone.process.poll() is None:
            try:
                post(client, sent)
            except httpx.TransportError:
                # Whether it was taken nobody knows: the same batch comes again.
                break
            sent += BATCH
    assert standalone.process.wait() == KILLED, standalone.log.read_text()[-3000:]
    standalone.start()
    with standalone.client(standalone.token("admin", clinic_id)) as client:
        post(client, sent)
        sent += BATCH
        standalone.advance("PT48H")
        kpis = {item["kpi"]: item for item in client.get("/scoring/v1/kpis").json()["items"]}
        statement = client.get("/engagement/v1/two-z").json()
    assert kpis["visits"]["value"] == sent
    assert (statement["in_scope"], statement["violations"]) == (sent, 0)
    reached = Counter(mail["to"] for mail in standalone.caught("mails"))
    assert reached == {address(number): 1 for number in range(sent)}


def post(client: httpx.Client, first: int) -> None:
    """Registers patients with an address, and posts a visit of each."""
    numbers = range(first, first + BATCH)
    for number in numbers:
        client.put(
            f"/booking/v1/patients/P-{number}",
            json={
                "name": {"family": "Doe", "given": "Jan"},
                "language": "en",
                "contacts": {"email": address(number)},
            },
        ).raise_for_status()
    visits = [visit(str(number), f"P-{number}", COMPLETED_AT) for number in numbers]
    answer = client.post("/booking/v1/events", json=visits, headers={"Content-Type": BATCH_TYPE})
    assert answer.status_code == 202, answer.text
    assert not answer.json()["rejected"], answer.text


def address(number: int) -> str:
    return f"p{number}@example.org"
