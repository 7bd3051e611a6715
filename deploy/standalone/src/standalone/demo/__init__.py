"""`make demo`: three months of a clinic in minutes, and what came of them."""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from standalone.demo.client import Client
from standalone.demo.driver import Driver, Mail, Plan, Refused, say
from standalone.demo.happenings import Timeline
from standalone.demo.report import Reader, Report, as_text
from standalone.demo.simulator import FIRST_DAY, simulate
from standalone.demo.vitoria import WrongFile, read_appointments
from standalone.keys import Keys
from standalone.postgres import free_port, port_is_free

CLINIC_ID = UUID("5b7d3f0e-1c55-4b5e-9a43-2f6f0f3d8c11")
DEFAULT_PORT = 8080
START_TIMEOUT_SECONDS = 120
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
        "--repeat", type=int, default=1, metavar="N", help="post each event N times"
    )
    parser.add_argument("--shuffle", type=int, metavar="SEED", help="post out of order")
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="keep the platform's data here"
    )
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 picks a free one")
    parser.add_argument("--patients", type=int, default=2000, help="size of the shipped sample")
    options = parser.parse_args(arguments)
    try:
        return _run(options)
    except (Refused, WrongFile, OSError, RuntimeError) as error:
        say(f"\nThe demo stopped: {error}")
        return 1
    except KeyboardInterrupt:
        say("\nStopped.")
        return 130


def _run(options: argparse.Namespace) -> int:
    started = time.monotonic()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="revisit-demo-")))
        timeline = Timeline(scratch / "timeline.db", CLINIC_ID)
        stack.callback(timeline.close)
        say("Reading the file" if options.data else "Making three months of a clinic")
        timeline.fill(
            read_appointments(options.data) if options.data else simulate(patients=options.patients)
        )
        plan, start = _plan(options, timeline)
        say("Starting PostgreSQL, the broker and the four services")
        served = _start(stack, options, scratch, start)
        report = asyncio.run(_replay(served, timeline, plan, start))
        report.seconds = round(time.monotonic() - started, 1)
        print(as_text(report))
        print(f"\n  Took {report.seconds:.0f} s")
        if options.report:
            options.report.write_text(json.dumps(report.as_json(), ensure_ascii=False, indent=2))
        if not options.exit:
            _serve_on(served)
    return 0


def _plan(options: argparse.Namespace, timeline: Timeline) -> tuple[Plan, datetime]:
    if options.data:
        first, _ = timeline.span()
        start = first.replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
        clinic, answers, confirms = FILE, 0.0, 0.0
    else:
        start = FIRST_DAY.astimezone(UTC)
        clinic, answers, confirms = SAMPLE, 0.26, 0.4
    return (
        Plan(
            clinic_id=CLINIC_ID,
            clinic=clinic | {"live_from": start.isoformat()},
            answer_share=answers,
            confirm_share=confirms,
            repeat=options.repeat,
            shuffle=options.shuffle,
        ),
        start,
    )


def _start(stack: ExitStack, options: argparse.Namespace, scratch: Path, start: datetime) -> Served:
    data_dir: Path = (options.data_dir or scratch / "platform").resolve()
    port = options.port if options.port and port_is_free(options.port) else free_port()
    ready_file = scratch / "ready.json"
    log_path = scratch / "platform.log"
    log = stack.enter_context(log_path.open("wb"))
    process = subprocess.Popen(  # noqa: S603  (our own module)
        [
            *(sys.executable, "-m", "standalone", "serve", "--port", str(port)),
            *("--data-dir", str(data_dir), "--ready-file", str(ready_file)),
            *("--clock", "simulated", "--start", start.isoformat()),
        ],
        stdout=log,
        stderr=log,
        start_new_session=True,
        # The demo reads what patients receive: nothing of it may go to a real provider.
        env={name: value for name, value in os.environ.items() if name not in PROVIDERS},
    )
    stack.callback(_stop, process)
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while not ready_file.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            tail = log_path.read_text(errors="replace")[-3000:]
            raise RuntimeError(f"the platform did not start:\n{tail}")
        time.sleep(0.05)
    ready = json.loads(ready_file.read_text())
    return Served(ready["base_url"], ready["admin_token"], ready.get("mailbox_url", ""), data_dir)


async def _replay(served: Served, timeline: Timeline, plan: Plan, start: datetime) -> Report:
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
        await driver.run(start)
        report = await Reader(client, token).report(timeline, driver.tally.answers)
    mail.close()
    return report


def _serve_on(served: Served) -> None:
    token = Keys(served.data_dir).issue("manager", CLINIC_ID)
    print(
        f"\n  The platform    {served.base_url}"
        f"\n  The mailbox     {served.mailbox_url}"
        f"\n  The clinic      {CLINIC_ID}"
        f"\n  A token         {token}"
        f"\n\n  Try             curl -H 'Authorization: Bearer {token[:12]}...' "
        f"{served.base_url}/engagement/v1/two-z"
        "\n\n  Serving; Ctrl-C ends it.",
        flush=True,
    )
    with suppress(KeyboardInterrupt):
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(timeout=90)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
