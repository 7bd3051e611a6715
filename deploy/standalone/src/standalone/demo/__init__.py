"""`make demo`: three months of a clinic in minutes, and what came of them."""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from standalone.children import dies_with_parent
from standalone.cluster import Cluster
from standalone.demo.client import Client
from standalone.demo.driver import Driver, Mail, Plan, Refused, say
from standalone.demo.progress import Progress
from standalone.demo.report import Reader, Report, as_text
from standalone.demo.simulator import (
    ANSWER_SHARE,
    CONFIRM_SHARE,
    FIRST_DAY,
    MONTHS,
    PATIENTS,
    end_of,
    simulate,
)
from standalone.demo.timeline import Timeline
from standalone.demo.vitoria import WrongFile, count_rows, read_appointments
from standalone.keys import Keys
from standalone.placement import Placement
from standalone.signals import (
    STOP,
    Stopped,
    ignore_signals,
    run_until_stopped,
    signals_stop_the_start,
)

CLINIC_ID = UUID("5b7d3f0e-1c55-4b5e-9a43-2f6f0f3d8c11")
DEFAULT_PORT = 8080
START_TIMEOUT_SECONDS = 120
SERVICES = ("booking", "engagement", "feedback", "scoring")
STAGES = (
    ("postgres/postgres.log", "PostgreSQL, the databases"),
    ("broker.pid", "the broker"),
    ("caught.pid", "the mailbox"),
)
"""What appears in the data folder as the platform comes up, and what it tells of."""
LOG_LINES = 20
STOP_TIMEOUT_SECONDS = 150
FAULTS = (Refused, WrongFile, OSError, RuntimeError, ValueError, ExceptionGroup)
AFTERMATH = timedelta(days=4)
"""Follow-ups of a file's last day are due up to three days later."""
PROVIDERS = frozenset({"ENGAGEMENT_SMTP_URL", "ENGAGEMENT_SMS_URL"})
SAMPLE = {
    "name": "Клиника на Речной",
    "time_zone": "Europe/Moscow",
    "language": "ru",
    "country": "RU",
    "currency": "RUB",
}
FILE = {
    "name": "Clinic of the file",
    "time_zone": "America/Sao_Paulo",
    "language": "en",
    "country": "BR",
    "currency": "BRL",
}


@dataclass(frozen=True, slots=True)
class Served:
    """A platform that serves, as its ready file says."""

    base_url: str
    admin_token: str
    mailbox_url: str
    data_dir: Path
    process: "subprocess.Popen[bytes]"


def main(arguments: list[str]) -> int:
    """Runs the demo; gives the exit code.

    Args:
        arguments: Of the command line.
    """
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--exit", action="store_true", help="end after the summary")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the summary as JSON")
    parser.add_argument("--data", type=Path, metavar="FILE", help="replay real appointments")
    parser.add_argument(
        "--repeat", type=_positive, default=1, metavar="N", help="post everything N times"
    )
    parser.add_argument("--shuffle", type=int, metavar="SEED", help="post out of order")
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="keep the platform's data here"
    )
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 picks a free one")
    # The size of the shipped sample; its calibration is tested at the default.
    parser.add_argument("--patients", type=_positive, default=PATIENTS, help=argparse.SUPPRESS)
    parser.add_argument("--months", type=_positive, default=MONTHS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        with signals_stop_the_start(), _log() as log_path:
            return _run(options, log_path)
    except FAULTS as error:
        say(f"\nThe demo stopped: {_first(error)}")
        return 1
    except Stopped:
        say("\nStopped.")
        return 130


@contextmanager
def _log() -> Iterator[Path]:
    """Gives a file for the platform's log; it survives a demo that fails, and is shown then."""
    handle, name = tempfile.mkstemp(prefix="revisit-demo-", suffix=".log")
    os.close(handle)
    path = Path(name)
    try:
        yield path
    except FAULTS:
        lines = path.read_text(errors="replace").splitlines()[-LOG_LINES:]
        say("\n".join(["", *lines, "", f"The platform's log: {path}"]))
        raise
    except BaseException:
        path.unlink()
        raise
    path.unlink()


def _run(options: argparse.Namespace, log_path: Path) -> int:
    started = time.monotonic()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="revisit-demo-")))
        timeline = _fill(stack, options, scratch)
        plan, start = _plan(options, timeline)
        served = _start(stack, options, scratch, start, log_path)
        report = run_until_stopped(_replay(served, timeline, plan))
        report.seconds = round(time.monotonic() - started, 1)
        print(as_text(report))
        print(f"\n  Took {report.seconds:.0f} s", flush=True)
        if options.report:
            options.report.write_text(json.dumps(report.as_json(), ensure_ascii=False, indent=2))
        if not options.exit:
            _serve_on(served)
    return 0


def _fill(stack: ExitStack, options: argparse.Namespace, scratch: Path) -> Timeline:
    timeline = Timeline(
        scratch / "timeline.db",
        CLINIC_ID,
        shuffle=options.shuffle,
        until=None if options.data else end_of(options.months),
    )
    stack.callback(timeline.close)
    if options.data:
        say("Reading the file")
        rows = Progress(count_rows(options.data), "appointments")
        timeline.fill(rows.over(read_appointments(options.data)))
    else:
        say(f"Making {options.months} months of a clinic")
        people = Progress(options.patients, "patients")
        appointments = simulate(patients=options.patients, months=options.months)
        timeline.fill(people.over(appointments, lambda one: one.person.id))
    return timeline


def _plan(options: argparse.Namespace, timeline: Timeline) -> tuple[Plan, datetime]:
    if options.data:
        first, last = timeline.span()
        start = first.replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
        clinic, answers, confirms, ends_at = FILE, 0.0, 0.0, last + AFTERMATH
    else:
        start = FIRST_DAY.astimezone(UTC)
        clinic, answers, confirms = SAMPLE, ANSWER_SHARE, CONFIRM_SHARE
        ends_at = end_of(options.months).astimezone(UTC)
    return (
        Plan(
            clinic_id=CLINIC_ID,
            clinic=clinic | {"live_from": start.isoformat()},
            answer_share=answers,
            confirm_share=confirms,
            ends_at=ends_at,
            repeat=options.repeat,
            is_shuffled=options.shuffle is not None,
        ),
        start,
    )


def _start(
    stack: ExitStack,
    options: argparse.Namespace,
    scratch: Path,
    start: datetime,
    log_path: Path,
) -> Served:
    say("Starting PostgreSQL, the broker and the four services")
    data_dir: Path = (options.data_dir or scratch / "platform").resolve()
    if options.data_dir is None:
        # As root the cluster lies elsewhere, so it does not go with the scratch folder.
        stack.callback(Placement(data_dir / "postgres").remove)
    ready_file = scratch / "ready.json"
    log = stack.enter_context(log_path.open("wb"))
    process = subprocess.Popen(  # noqa: S603  (our own module)
        [
            *(sys.executable, "-m", "standalone", "serve"),
            *("--port", str(options.port), "--or-free-port"),
            *("--data-dir", str(data_dir), "--ready-file", str(ready_file)),
            *("--clock", "simulated", "--start", start.isoformat()),
        ],
        stdout=log,
        stderr=log,
        start_new_session=True,
        preexec_fn=dies_with_parent(signal.SIGTERM),  # noqa: PLW1509  (one prctl, no Python lock)
        # The demo reads what patients receive: nothing of it may go to a real provider.
        env={name: value for name, value in os.environ.items() if name not in PROVIDERS},
    )
    stack.callback(_stop, process)
    _wait_until_ready(process, data_dir, ready_file)
    ready = json.loads(ready_file.read_text())
    return Served(
        ready["base_url"], ready["admin_token"], ready.get("mailbox_url", ""), data_dir, process
    )


def _wait_until_ready(process: "subprocess.Popen[bytes]", data_dir: Path, ready_file: Path) -> None:
    stages = [(data_dir / name, note) for name, note in STAGES] + [(ready_file, "the services")]
    progress = Progress(len(stages), "parts")
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    for path, note in stages:
        while not (path.exists() or ready_file.exists()):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the platform did not start")
            time.sleep(0.05)
        progress.add(1, note)


async def _replay(served: Served, timeline: Timeline, plan: Plan) -> Report:
    token = Keys(served.data_dir).issue("clinic_system", plan.clinic_id)
    mail = Mail(served.data_dir / "caught")
    async with Client(served.base_url) as client:
        driver = Driver(
            client,
            timeline,
            plan,
            platform_token=served.admin_token,
            clinic_token=token,
            mail=mail,
        )
        now = await driver.run()
        report = await Reader(client, token).report(
            timeline,
            answers=driver.tally.answers,
            events=_published(served.data_dir, plan.clinic_id),
            now=now,
        )
    mail.close()
    return report


def _published(data_dir: Path, clinic_id: UUID) -> dict[str, int]:
    """Counts what the services have published, by exact type, in their outboxes."""
    cluster = Cluster(data_dir / "postgres")
    cluster.attach()
    counts: Counter[str] = Counter()
    for service in SERVICES:
        counts.update(cluster.published(service, clinic_id))
    return dict(sorted(counts.items()))


def _serve_on(served: Served) -> None:
    token = Keys(served.data_dir).issue("manager", CLINIC_ID)
    # Whole lines and nothing in front of them: they are there to be copied.
    print(
        f"\n  The platform    {served.base_url}"
        f"\n  The mailbox     {served.mailbox_url}"
        f"\n  The clinic      {CLINIC_ID}"
        "\n\n  To look around, sign in with this token:"
        f"\n\nTOKEN={token}"
        f'\ncurl -H "Authorization: Bearer $TOKEN" {served.base_url}/engagement/v1/two-z'
        "\n\n  Serving; Ctrl-C ends it.",
        flush=True,
    )
    # Blocked, or the handler of the start would take it.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    while signal.sigtimedwait(STOP, 1.0) is None:
        if served.process.poll() is not None:
            raise RuntimeError("the platform ended by itself")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    ignore_signals()
    process.terminate()
    try:
        process.wait(timeout=STOP_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _first(error: BaseException) -> BaseException:
    """Gives what a task group's error is about."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
