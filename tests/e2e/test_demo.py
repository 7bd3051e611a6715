"""`make demo` as a person starts it: the shipped sample, a file of appointments, failure and signals."""

import asyncio
import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from tests.e2e.conftest import TIMEOUT_SECONDS
from tests.e2e.test_lifecycle import all_ended, children

from standalone.demo.simulator import simulate
from standalone.placement import Placement

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

PATIENTS, MONTHS = 60, 1
REPORT_KEYS = {
    *("patients", "appointments", "visits", "no_show_rate", "events", "messages", "tasks"),
    *("two_z", "segments", "at_risk", "seconds"),
}
SERVICES = ("booking", "engagement", "feedback", "scoring")
RATE_AND_TIME_LEFT = re.compile(r"[\d.,]+/s +\d+:\d\d left")


@dataclass(slots=True)
class Demo:
    """A run of the demo in a folder of its own."""

    folder: Path
    arguments: Sequence[str]
    process: "subprocess.Popen[bytes]" = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "output").open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "standalone", "demo", *self.arguments],
                stdout=output,
                stderr=output,
                # The log of the platform lies in the temporary folder.
                env=os.environ | {"TMPDIR": str(self.folder)},
            )

    @property
    def output(self) -> str:
        return (self.folder / "output").read_text()

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + 2 * TIMEOUT_SECONDS
        while text not in self.output:
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)

    def wait(self) -> int:
        return self.process.wait(2 * TIMEOUT_SECONDS)


@dataclass(slots=True)
class Serving:
    """The demo of the sample after its summary."""

    demo: Demo
    data_dir: Path
    report: dict[str, Any]
    busy_port: int

    @property
    def base_url(self) -> str:
        return _found(r"The platform +(http://\S+)", self.demo.output)

    @property
    def token(self) -> str:
        return _found(r"(?m)^TOKEN=(\S+)$", self.demo.output)


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    assert found is not None, text
    return found.group(1)


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("demo")
    data_dir, report = folder / "data", folder / "report.json"
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        demo = Demo(
            folder / "run",
            [
                *("--patients", str(PATIENTS), "--months", str(MONTHS)),
                *("--report", str(report), "--data-dir", str(data_dir), "--port", str(port)),
            ],
        )
        try:
            demo.wait_for("Ctrl-C ends it")
            yield Serving(demo, data_dir, json.loads(report.read_text()), port)
            pids = children(demo.process.pid)
            assert pids
            demo.process.send_signal(signal.SIGINT)
            assert demo.wait() == 0, demo.output
            assert all_ended(pids)
            assert list(demo.folder.glob("revisit-demo-*")) == []
        finally:
            demo.process.kill()
            demo.wait()
            Placement(data_dir / "postgres").remove()


def test_report_says_what_came_of_it(serving: Serving) -> None:
    report = serving.report
    assert set(report) >= REPORT_KEYS
    assert report["patients"] == PATIENTS
    assert report["appointments"] == len(list(simulate(patients=PATIENTS, months=MONTHS)))
    assert report["visits"] > 20
    events = report["events"]
    assert events["visit.completed.v1"] == report["visits"]
    assert events["patient.registered.v1"] == PATIENTS
    assert events["appointment.booked.v1"] == report["appointments"]
    missed = events.get("appointment.no_show.v1", 0)
    assert report["no_show_rate"] == missed / (missed + report["visits"])
    assert events["message.sent.v1"] == sum(report["messages"].values())
    assert {"follow-up", "reminder"} <= set(report["messages"])
    # An event of a newer version counts by its own type, not as the newest one.
    assert events.get("survey.answered.v2", 0) + events.get("survey.answered.v1", 0) > 0
    two_z = report["two_z"]
    assert two_z["violations"] == 0
    assert two_z["booked"] > 0
    assert (
        two_z["in_scope"]
        == two_z["booked"] + two_z["task_open"] + two_z["released"] + two_z["violations"]
    )
    assert report["reminders_for_past_or_cancelled"] == 0
    assert report["ahead"] > 0
    assert report["tasks"]["open"] == sum(report["tasks"]["by_reason"].values())
    assert len(report["at_risk"]) == 10
    for one in report["at_risk"]:
        assert re.fullmatch(r"P-\d{5}", one["patient_id"])
        assert 0 <= one["probability"] <= 1
        assert one["reasons"]


def test_summary_is_for_a_clinics_owner(serving: Serving) -> None:
    text = serving.demo.output
    summary = text[text.index("What came of it") :]
    for line in ("Visits", "No-show rate", "Follow-ups sent", "Reminders sent", "violations"):
        assert re.search(rf"(?m)^ +{line} .*\d", summary), line
    # No code of the platform stands in it: words only.
    shown = summary[: summary.index("The platform")]
    assert not re.search(r"[a-z]_[a-z]", shown), shown
    assert RATE_AND_TIME_LEFT.search(text)
    for unit in ("patients", "parts", "events"):
        assert re.search(rf"of [\d,]+ {unit} ", text), unit


def test_busy_port_is_left_alone_and_the_token_signs_in(serving: Serving) -> None:
    assert not serving.base_url.endswith(f":{serving.busy_port}")
    answer = httpx.get(
        f"{serving.base_url}/engagement/v1/two-z",
        headers={"Authorization": f"Bearer {serving.token}"},
    )
    assert answer.status_code == 200
    assert answer.json()["violations"] == 0


def test_second_demo_on_a_folder_in_use_says_so_and_keeps_its_log(
    serving: Serving, tmp_path: Path
) -> None:
    demo = Demo(
        tmp_path / "second",
        ["--exit", "--patients", "5", "--months", "1", "--data-dir", str(serving.data_dir)],
    )
    assert demo.wait() == 1
    assert f"{serving.data_dir} is in use by process" in demo.output
    log = Path(_found(r"The platform's log: (\S+)", demo.output))
    assert "is in use" in log.read_text()


def secrets_of_the_sample() -> set[bytes]:
    """Every phone, address and name of the sample, in each way in which text is written down."""
    words: set[str] = set()
    for one in simulate(patients=PATIENTS, months=MONTHS):
        person = one.person
        words |= {text for text in (person.email, person.phone) if text}
        # English names are words of the language too; a name of two is none.
        words |= (
            {person.given, person.family}
            if person.language == "ru"
            else {f"{person.given} {person.family}"}
        )
    words |= {word.removeprefix("+") for word in words if word.startswith("+")}
    forms: set[bytes] = set()
    for word in words:
        forms |= {word.encode(), json.dumps(word)[1:-1].encode()}
        forms.add(urllib.parse.quote(word).encode())
    return forms


def leaks(text: bytes) -> list[bytes]:
    return [word for word in secrets_of_the_sample() if word in text]


async def topics(bootstrap_servers: str) -> bytes:
    """Everything that lies in the topics: keys, headers and values."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap_servers,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        group_id=None,
        fetch_max_wait_ms=50,
    )
    await consumer.start()
    try:
        names = [name for name in await consumer.topics() if not name.startswith("__")]
        consumer.assign([TopicPartition(name, 0) for name in names])
        found, count, quiet = b"", 0, 0
        while quiet < 4:
            batches = await consumer.getmany(timeout_ms=250)
            records = [record for batch in batches.values() for record in batch]
            quiet = 0 if records else quiet + 1
            count += len(records)
            for record in records:
                parts = [record.key, record.value, *(value for _, value in record.headers)]
                found += b"\n".join(part or b"" for part in parts)
        assert count > 200
        return found
    finally:
        await consumer.stop()


def test_no_contact_of_the_sample_is_in_any_log_topic_metric_or_error(serving: Serving) -> None:
    assert len(secrets_of_the_sample()) > PATIENTS
    caught = (serving.data_dir / "caught" / "mails.jsonl").read_bytes()
    assert leaks(caught)  # the search finds what is there
    logs = [*serving.data_dir.rglob("*.log"), *serving.demo.folder.glob("*.log")]
    assert len(logs) >= 3
    for path in [*logs, serving.demo.folder / "output"]:
        assert leaks(path.read_bytes()) == [], path

    command = json.loads((serving.data_dir / "broker.pid").read_text())["command"]
    address = command[command.index("--listener-url") + 1].removeprefix("tcp://")
    assert leaks(asyncio.run(topics(address))) == []

    metrics = [f"{serving.base_url}/{name}/metrics" for name in SERVICES]
    for url in [f"{serving.base_url}/metrics", *metrics]:
        answer = httpx.get(url)
        assert answer.status_code == 200
        assert leaks(answer.content) == [], url

    person = next(one.person for one in simulate(patients=PATIENTS, months=MONTHS))
    wrong = person.as_request() | {"contacts": {"email": f"{person.email}@", "phone": "+7000x"}}
    event = {
        "specversion": "1.0",
        "id": "leak",
        "source": "//mis.example/clinic",
        "type": "visit.completed.v1",
        "subject": "V-leak",
        "time": "2026-02-01T10:00:00Z",
        "data": {"visit_id": "V-leak", "patient_id": person.id, "kind": [person.family]},
    }
    tokens = {"Authorization": f"Bearer {serving.token}"}
    with httpx.Client(base_url=serving.base_url, headers=tokens) as client:
        errors = [
            client.put(f"/booking/v1/patients/{person.id}", json=wrong),
            client.put(f"/booking/v1/patients/{person.id}", content=json.dumps(wrong)[:-3]),
            client.post("/booking/v1/events", json=event),
            client.get("/engagement/v1/messages", params={"patient_id": "x" * 65}),
            client.get(f"/feedback/s/{person.id}"),
        ]
    for answer in errors:
        assert 400 <= answer.status_code < 500, answer.text
        assert leaks(answer.content) == [], answer.text


COLUMNS = (
    *("PatientId", "AppointmentID", "Gender", "ScheduledDay", "AppointmentDay", "Age"),
    *("Neighbourhood", "Hipertension", "Diabetes", "No-show"),
)


def write_file(path: Path) -> dict[str, Any]:
    """A small file in the format of Vitoria; gives what is to come of it."""
    rows = []
    for n in range(60):
        day = 2 + n % 3
        booked = 2 + (n * 7) % day if n % 3 else 1
        rows.append(
            {
                # Two ids that are one number and two texts.
                "PatientId": {0: "53761528476E-5", 1: "537615.28476"}.get(n, f"29872{n % 40:03d}"),
                "AppointmentID": f"56{n:05d}",
                "Gender": "FM"[n % 2],
                "ScheduledDay": f"2016-05-{booked:02d}T{7 + n % 9:02d}:15:08Z",
                "AppointmentDay": f"2016-05-{day:02d}T00:00:00Z",
                "Age": str(n),
                "Neighbourhood": "CENTRO",
                "Hipertension": str(n % 2),
                "Diabetes": "0",
                "No-show": "Yes" if n % 6 == 0 else "No",
            }
        )
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    missed = sum(row["No-show"] == "Yes" for row in rows)
    return {
        "patients": len({row["PatientId"] for row in rows}),
        "appointments": len(rows),
        "visits": len(rows) - missed,
        "no_show_rate": missed / len(rows),
    }


def totals(report: dict[str, Any]) -> dict[str, Any]:
    """What must not depend on the order and the number of deliveries."""
    events = report["events"]
    return {
        **{name: report[name] for name in ("patients", "appointments", "visits", "no_show_rate")},
        **{name: report[name] for name in ("messages", "two_z", "segments", "at_risk")},
        "tasks": report["tasks"]["open"],
        "pointless": report["reminders_for_past_or_cancelled"],
        "events": {
            name: events.get(f"{name}.v1", 0)
            for name in ("visit.completed", "appointment.booked", "appointment.no_show")
        },
    }


def test_file_gives_the_same_totals_repeated_and_shuffled(tmp_path: Path) -> None:
    expected = write_file(tmp_path / "appointments.csv")
    runs = {
        name: Demo(
            tmp_path / name,
            [
                *("--exit", "--port", "0", "--data", str(tmp_path / "appointments.csv")),
                *("--report", str(tmp_path / f"{name}.json"), *more),
            ],
        )
        for name, more in {"plain": (), "again": ("--repeat", "2", "--shuffle", "7")}.items()
    }
    reports = {}
    for name, demo in runs.items():
        assert demo.wait() == 0, demo.output
        assert RATE_AND_TIME_LEFT.search(demo.output)
        assert re.search(r"of 60 appointments ", demo.output)
        reports[name] = json.loads((tmp_path / f"{name}.json").read_text())
        assert {key: reports[name][key] for key in expected} == expected
        assert reports[name]["two_z"]["violations"] == 0
        assert reports[name]["reminders_for_past_or_cancelled"] == 0
        assert reports[name]["messages"]["reminder"] > 0
        # However often and in whatever order they are told: a journey for each appointment and visit.
        enrolled = reports[name]["events"]["journey.enrolled.v1"]
        assert enrolled == reports[name]["appointments"] + reports[name]["visits"]
        # None is told twice: the timer of the platform never overtakes the clinic's own report.
        missed = round(expected["no_show_rate"] * expected["appointments"])
        assert reports[name]["events"]["appointment.no_show.v1"] == missed
        assert list(demo.folder.glob("revisit-demo-*")) == []
    assert totals(reports["plain"]) == totals(reports["again"])


def test_file_that_is_none_of_it_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "wrong.csv").write_text("PatientId,Age\n1,2\n")
    demo = Demo(tmp_path / "run", ["--exit", "--data", str(tmp_path / "wrong.csv")])
    assert demo.wait() == 1
    assert "the file has no column AppointmentID" in demo.output


def test_signal_during_the_replay_leaves_nobody_behind_and_a_second_run_goes_on(
    tmp_path: Path,
) -> None:
    expected = write_file(tmp_path / "appointments.csv")
    data_dir, report = tmp_path / "data", tmp_path / "report.json"
    arguments = [
        *("--exit", "--port", "0", "--data", str(tmp_path / "appointments.csv")),
        *("--data-dir", str(data_dir), "--report", str(report)),
    ]
    try:
        demo = Demo(tmp_path / "first", arguments)
        demo.wait_for(" events ")
        pids = children(demo.process.pid)
        assert len(pids) >= 4
        demo.process.terminate()
        assert demo.wait() == 130, demo.output
        assert all_ended(pids)
        assert list(demo.folder.glob("revisit-demo-*")) == []

        again = Demo(tmp_path / "second", arguments)
        assert again.wait() == 0, again.output
        found = json.loads(report.read_text())
        assert {key: found[key] for key in expected} == expected
        assert found["two_z"]["violations"] == 0
        assert found["reminders_for_past_or_cancelled"] == 0
    finally:
        Placement(data_dir / "postgres").remove()
