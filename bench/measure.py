"""The measurements, one function each: they run a bare script and the platform in turn and give figures."""

import asyncio
import contextlib
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import asyncpg

from bench import standalone_memory
from bench.load import Outcome, Post, clinics, post_all, post_steadily, register, visit_posts
from bench.rig import SERVICES, TOPIC, Process, Rig, wait_for_count, wait_for_port
from standalone.cluster import ServiceDatabase
from standalone.postgres import free_port

PATH = "/v1/events"
EFFECTS = "inbox WHERE type = 'visit.completed.v1'"
"""What a consumer has applied of the load; it also gets the clinics, and what other services tell."""
KNOWN_CLINICS = "inbox WHERE type = 'clinic.registered.v1'"
BARE_EFFECTS = "inbox"
CONSUMERS = ("engagement", "feedback", "scoring")
INGEST_PAIRS_FOR_ONE = 3
"""A pair of ingest is a few seconds, in which a shared machine wavers by a seventh: there are more."""
LATENCY_PAIRS = 3
RECOVERIES = 3
SAMPLE_SECONDS = 0.5
EFFECTS_TIMEOUT_SECONDS = 120
Progress = Callable[[str], None]


@dataclass(slots=True)
class Size:
    """How much is measured."""

    pairs: int = 5
    events: int = 60_000
    singles: int = 24_000
    steady_seconds: int = 20
    rate_per_second: int = 200
    memory_events: int = 1_000_000


@dataclass(slots=True)
class Pairs:
    """Figures of bare and platform, taken in turn."""

    bare: list[float] = field(default_factory=list)
    revisit: list[float] = field(default_factory=list)

    def summary(self, unit: str, **more: object) -> dict[str, Any]:
        """Medians, and the median of the pairs' ratios."""
        ratios = [mine / bare for mine, bare in zip(self.revisit, self.bare, strict=True)]
        return {
            "bare": statistics.median(self.bare),
            "revisit": statistics.median(self.revisit),
            "ratio": statistics.median(ratios),
            "unit": unit,
            "pairs": len(ratios),
            "ratios": [round(ratio, 3) for ratio in ratios],
            **more,
        }


class Bench:
    """One run of the measurements on one rig."""

    def __init__(self, rig: Rig, size: Size, progress: Progress) -> None:
        self.rig = rig
        self.size = size
        self.progress = progress
        self.clinics = clinics()
        self.tokens = rig.tokens(self.clinics)
        self.since = datetime.now(UTC) - timedelta(hours=3)
        self._runs = iter(range(10_000))

    def posts(self, events: int, batch: int) -> list[Post]:
        """A load nobody has posted yet."""
        return visit_posts(events, batch, self.clinics, f"r{next(self._runs)}", since=self.since)

    def register_clinics(self, port: int) -> None:
        """Registers the clinics of the load with a booking service."""
        token = self.rig.platform_token()
        register(
            f"http://127.0.0.1:{port}",
            self.since - timedelta(days=1),
            dict.fromkeys(self.clinics, token),
        )

    # -- ingest ----------------------------------------------------------------------------------

    def ingest_batch(self) -> dict[str, Any]:
        """100 events a POST, 8 clients."""
        return self._ingest(batch=100, events=self.size.events, clients=8)

    def ingest_single(self) -> dict[str, Any]:
        """Single POSTs at 32 connections, bare without group commit."""
        return self._ingest(batch=1, events=self.size.singles, clients=32)

    def _ingest(self, batch: int, events: int, clients: int) -> dict[str, Any]:
        pairs = Pairs()
        number_of_pairs = INGEST_PAIRS_FOR_ONE * self.size.pairs
        for number in range(number_of_pairs):
            self.progress(f"pair {number + 1} of {number_of_pairs}")
            with self.rig.processes():
                port = self._bare_ingest(self.rig.bare_database())
                pairs.bare.append(self._rate(port, self.posts(events, batch), clients))
            with self.rig.processes():
                _, port = self.rig.start_api("booking", self.rig.database("booking"))
                pairs.revisit.append(self._rate(port, self.posts(events, batch), clients))
        return pairs.summary("events/s")

    def _bare_ingest(self, url: str) -> int:
        port = free_port()
        self.rig.start("bench.bare.ingest", str(port), url)
        wait_for_port(port)
        return port

    def _post(self, port: int, posts: list[Post], clients: int) -> Outcome:
        outcome = asyncio.run(post_all(port, PATH, posts, self.tokens, clients))
        if outcome.refused:
            raise RuntimeError(f"the load was refused: {outcome.refused[0]}")
        return outcome

    def _rate(self, port: int, posts: list[Post], clients: int) -> float:
        self.rig.checkpoint()
        return self._post(port, posts, clients).rate

    # -- pipeline --------------------------------------------------------------------------------

    def pipeline(self) -> dict[str, Any]:
        """POST to effect with scoring as the one consumer."""
        return self._pipeline(("scoring",))

    def pipeline_all(self) -> dict[str, Any]:
        """POST to the direct effects in engagement, feedback and scoring."""
        return self._pipeline(CONSUMERS)

    def _pipeline(self, consumers: tuple[str, ...]) -> dict[str, Any]:
        pairs = Pairs()
        for number in range(self.size.pairs):
            self.progress(f"pair {number + 1} of {self.size.pairs}")
            pairs.bare.append(self._bare_pipeline())
            pairs.revisit.append(self._own_pipeline(consumers))
        return pairs.summary("events/s")

    def _bare_pipeline(self) -> float:
        with self.rig.processes():
            port, url = self._start_bare_pipeline()
            self._settle(port, url, BARE_EFFECTS)
            posts = self.posts(self.size.events, 100)
            return self._drive(port, posts, [(url, BARE_EFFECTS)])

    def _start_bare_pipeline(self) -> tuple[int, str]:
        self.rig.fresh_broker()
        url = self.rig.bare_database()
        port = self._bare_ingest(url)
        bootstrap = self.rig.broker.bootstrap_servers
        self.rig.start("bench.bare.relay", url, bootstrap, TOPIC)
        self.rig.start("bench.bare.consumer", url, bootstrap, TOPIC, "bare")
        return port, url

    def _own_pipeline(self, consumers: tuple[str, ...]) -> float:
        with self.rig.processes():
            port, databases, _ = self._start_own_pipeline(consumers)
            targets = [(superuser_url(self.rig, databases[name]), EFFECTS) for name in consumers]
            for url, table in targets:
                self._settle(port, url, table)
            return self._drive(port, self.posts(self.size.events, 100), targets)

    def _start_own_pipeline(
        self, consumers: tuple[str, ...]
    ) -> tuple[int, dict[str, ServiceDatabase], dict[str, Process]]:
        self.rig.fresh_broker()
        databases = {name: self.rig.database(name) for name in ("booking", *consumers)}
        api, port = self.rig.start_api("booking", databases["booking"])
        processes = {"booking-api": api}
        for name in ("booking", *consumers):
            processes[f"{name}-worker"] = self.rig.start_worker(name, databases[name])
        self.register_clinics(port)
        return port, databases, processes

    def _settle(self, port: int, url: str, table: str) -> None:
        """One post all the way, so that start-up (the group's join) is outside the figure."""
        before = asyncio.run(_count(url, table))
        posts = self.posts(1, 1)
        self._post(port, posts, 1)
        asyncio.run(wait_for_count(url, table, before + 1))

    def _drive(self, port: int, posts: list[Post], targets: list[tuple[str, str]]) -> float:
        events = sum(len(post.event_ids) for post in posts)
        self.rig.checkpoint()

        async def run() -> float:
            before = [await _count(url, table) for url, table in targets]
            started = time.perf_counter()
            outcome = await post_all(port, PATH, posts, self.tokens, 8)
            if outcome.refused:
                raise RuntimeError(f"the load was refused: {outcome.refused[0]}")
            ended = [
                await wait_for_count(url, table, rows + events)
                for (url, table), rows in zip(targets, before, strict=True)
            ]
            return events / (max(ended) - started)

        return asyncio.run(run())

    # -- consumers -------------------------------------------------------------------------------

    def consumer(self, service: str) -> dict[str, Any]:
        """One consumer alone on a full topic against the bare consumer on the same topic."""
        pairs = Pairs()
        self.rig.fresh_broker()
        with self.rig.processes():
            booking = self.rig.database("booking")
            _, port = self.rig.start_api("booking", booking)
            self.rig.start_worker("booking", booking)
            self.register_clinics(port)
            ready = [self._group_that_knows_the_clinics(service) for _ in range(self.size.pairs)]
            self._post(port, self.posts(self.size.events, 100), 8)
            asyncio.run(_wait_until_empty(superuser_url(self.rig, booking), "outbox_unsent"))
        for number, (group, database) in enumerate(ready):
            self.progress(f"pair {number + 1} of {self.size.pairs}")
            with self.rig.processes():
                url = self.rig.bare_database()
                self.rig.checkpoint()
                bootstrap = self.rig.broker.bootstrap_servers
                self.rig.start("bench.bare.consumer", url, bootstrap, TOPIC, f"bare-{group}")
                pairs.bare.append(asyncio.run(_drain_rate(url, BARE_EFFECTS, self.size.events)))
            self.rig.checkpoint()
            with self._consumer_alone(service, group, database) as url:
                pairs.revisit.append(asyncio.run(_drain_rate(url, EFFECTS, self.size.events)))
        return pairs.summary("events/s")

    def _group_that_knows_the_clinics(self, service: str) -> tuple[str, ServiceDatabase]:
        """A clinic is known long before its visits come; a full topic would bring both at once."""
        group, database = f"bench-{next(self._runs)}", self.rig.database(service)
        with self._consumer_alone(service, group, database) as url:
            asyncio.run(wait_for_count(url, KNOWN_CLINICS, len(self.clinics)))
        return group, database

    @contextlib.contextmanager
    def _consumer_alone(self, service: str, group: str, database: ServiceDatabase) -> Iterator[str]:
        with self.rig.processes():
            self.rig.start(
                "bench.worker", service, group, environment=self.rig.environment(service, database)
            )
            yield superuser_url(self.rig, database)

    # -- latency ---------------------------------------------------------------------------------

    def latency_ms(self) -> dict[str, Any]:
        """POST to the last direct effect of the event, at a steady rate."""
        events = self.size.rate_per_second * self.size.steady_seconds
        pairs, p50 = Pairs(), []
        for number in range(min(self.size.pairs, LATENCY_PAIRS)):
            self.progress(f"pair {number + 1}")
            with self.rig.processes():
                port, url = self._start_bare_pipeline()
                self._settle(port, url, BARE_EFFECTS)
                waits = self._steady(port, [(url, BARE_EFFECTS)], self.posts(events, 1))
                pairs.bare.append(waits["p99"])
            with self.rig.processes():
                port, databases, _ = self._start_own_pipeline(CONSUMERS)
                targets = [
                    (superuser_url(self.rig, databases[name]), EFFECTS) for name in CONSUMERS
                ]
                for url, table in targets:
                    self._settle(port, url, table)
                waits = self._steady(port, targets, self.posts(events, 1))
                pairs.revisit.append(waits["p99"])
                p50.append(waits["p50"])
        figures = pairs.summary("ms", events_per_second=self.size.rate_per_second)
        return figures | {"p50": statistics.median(p50), "p99": figures["revisit"]}

    def _steady(
        self, port: int, targets: list[tuple[str, str]], posts: list[Post]
    ) -> dict[str, float]:
        async def run() -> dict[str, float]:
            outcome = await post_steadily(port, PATH, posts, self.tokens, self.size.rate_per_second)
            if outcome.refused:
                raise RuntimeError(f"the load was refused: {outcome.refused[0]}")
            last: dict[str, float] = {}
            for url, table in targets:
                # Besides the load there is what was posted to see that all is up.
                found = await _commits(url, table, set(outcome.sent_at))
                for event_id, committed_at in found.items():
                    last[event_id] = max(last.get(event_id, 0.0), committed_at)
            waits = sorted(
                (last[event_id] - sent_at) * 1000 for event_id, sent_at in outcome.sent_at.items()
            )
            return {
                "p50": waits[len(waits) // 2],
                "p99": waits[min(len(waits) - 1, int(len(waits) * 0.99))],
            }

        return asyncio.run(run())

    # -- recovery --------------------------------------------------------------------------------

    def recovery_s(self) -> dict[str, Any]:
        """First new effect after kill -9 and restart of the API, the relay and the consumer."""
        with self.rig.processes():
            port, databases, processes = self._start_own_pipeline(("scoring",))
            url = superuser_url(self.rig, databases["scoring"])
            self._settle(port, url, EFFECTS)
            times: dict[str, list[float]] = {}
            for number in range(RECOVERIES):
                for name, process in (
                    ("api", processes["booking-api"]),
                    ("relay", processes["booking-worker"]),
                    ("consumer", processes["scoring-worker"]),
                ):
                    self.progress(f"kill -9 of the {name}, {number + 1} of {RECOVERIES}")
                    times.setdefault(name, []).append(self._recovery(process, port, url))
        return {"unit": "s", **{name: statistics.median(found) for name, found in times.items()}}

    def _recovery(self, process: Process, port: int, url: str) -> float:
        before = asyncio.run(_count(url, EFFECTS))
        process.kill()
        started = time.perf_counter()
        process.start()
        wait_for_port(port)
        self._post(port, self.posts(1, 1), 1)
        return asyncio.run(wait_for_count(url, EFFECTS, before + 1)) - started

    # -- memory ----------------------------------------------------------------------------------

    def memory_mib(self) -> dict[str, Any]:
        """Resident memory of each process, idle and at saturation, and of standalone as a whole."""
        with self.rig.processes():
            port, databases, processes = self._start_own_pipeline(CONSUMERS)
            for name in CONSUMERS:
                processes[f"{name}-api"], _ = self.rig.start_api(name, databases[name])
            urls = [superuser_url(self.rig, databases[name]) for name in CONSUMERS]
            for url in urls:
                self._settle(port, url, EFFECTS)
            idle = {name: process.memory_mib() for name, process in sorted(processes.items())}
            self.progress("saturation")
            with highest_memory(processes) as saturated:
                self._drive(
                    port, self.posts(self.size.events * 2, 100), [(url, EFFECTS) for url in urls]
                )
        self.progress(f"standalone, {self.size.memory_events:,} events")
        whole = standalone_memory.largest(self)
        return {
            "unit": "MiB",
            "idle_largest": max(idle.values()),
            "saturated_largest": max(saturated.values()),
            "standalone": whole,
            "idle": idle,
            "saturated": saturated,
        }


def superuser_url(rig: Rig, database: ServiceDatabase) -> str:
    """Address of a service's database for a reader whom row-level security does not bind."""
    return rig.cluster.superuser_url.rsplit("/", 1)[0] + "/" + database.roles.app


@contextlib.contextmanager
def highest_memory(processes: dict[str, Process]) -> Iterator[dict[str, float]]:
    """Gives a table that holds each process's highest resident memory, in MiB, at the end."""
    highest = dict.fromkeys(sorted(processes), 0.0)
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            for name in highest:
                highest[name] = max(highest[name], processes[name].memory_mib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield highest
    finally:
        ended.set()
        watcher.join()


async def _count(url: str, table: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        rows: int = await connection.fetchval(f"SELECT count(*) FROM {table}")
        return rows
    finally:
        await connection.close()


async def _wait_until_empty(url: str, table: str) -> None:
    while await _count(url, table):  # noqa: ASYNC110
        await asyncio.sleep(0.2)


async def _drain_rate(url: str, table: str, events: int) -> float:
    """Events a second between the first and the last effect, so that the group's join is outside."""
    connection = await asyncpg.connect(url)
    try:
        while not (first := await connection.fetchval(f"SELECT count(*) FROM {table}")):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        started = time.perf_counter()
    finally:
        await connection.close()
    ended = await wait_for_count(url, table, events)
    return float((events - first) / (ended - started))


async def _commits(url: str, table: str, event_ids: Set[str]) -> dict[str, float]:
    """Commit time of each event's effect, from PostgreSQL's own record of commits."""
    deadline = time.monotonic() + EFFECTS_TIMEOUT_SECONDS
    connection = await asyncpg.connect(url)
    try:
        while True:
            rows = await connection.fetch(
                "SELECT event_id, extract(epoch FROM pg_xact_commit_timestamp(xmin)) AS at "
                f"FROM (SELECT event_id, xmin FROM {table}) AS effects"
            )
            found = {row["event_id"]: float(row["at"]) for row in rows}
            if event_ids <= found.keys():
                return {event_id: found[event_id] for event_id in event_ids}
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(event_ids - found.keys())} effects never came")
            await asyncio.sleep(0.2)
    finally:
        await connection.close()


MEASUREMENTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "ingest_batch": Bench.ingest_batch,
    "ingest_single": Bench.ingest_single,
    "pipeline": Bench.pipeline,
    "pipeline_all": Bench.pipeline_all,
    **{
        f"consumer_{service}": partial(Bench.consumer, service=service)
        for service in SERVICES
        if service != "booking"
    },
    "latency_ms": Bench.latency_ms,
    "recovery_s": Bench.recovery_s,
    "memory_mib": Bench.memory_mib,
}
