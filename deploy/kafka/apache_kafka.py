"""One Apache Kafka node (KRaft) on the loopback interface, for the tests that must run on the real thing.

The jars come from Maven Central through `pom.xml` beside this file. Kafka keeps its log on disk, so a
node that was killed comes back with what it had acknowledged.
"""

import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path

HERE = Path(__file__).parent
LIBS = HERE / "target" / "libs"
START_TIMEOUT_SECONDS = 90
CONFIGURATION = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{advertised_port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={log_dir}
num.partitions=12
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
"""


class KafkaUnavailable(RuntimeError):
    """Java or Maven is missing, or the node did not start; the message says which."""


class ApacheKafka:
    """One broker-and-controller node.

    Args:
        folder: Takes configuration, output and the node's log.
        heap_mib: Size of the Java heap.
        advertised_port: Where clients reach it, if they come through something else.
    """

    def __init__(self, folder: Path, heap_mib: int = 512, advertised_port: int = 0) -> None:
        self._folder = folder
        self._heap_mib = heap_mib
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()
        self.advertised_port = advertised_port or self.port
        self._configuration = folder / "server.properties"

    @property
    def bootstrap_servers(self) -> str:
        """Address for `KAFKA_BOOTSTRAP_SERVERS`."""
        return f"127.0.0.1:{self.advertised_port}"

    @property
    def pid(self) -> int:
        """Process id of the node."""
        if self._process is None:
            raise KafkaUnavailable("Kafka is not running")
        return self._process.pid

    def start(self) -> None:
        """Formats the log folder the first time, starts the node, waits until it answers.

        Raises:
            KafkaUnavailable: Java or Maven is missing, or the node ended.
        """
        fetch_jars()
        if not self._configuration.exists():
            self._format()
        with (self._folder / "kafka.out").open("ab") as output:
            self._process = subprocess.Popen(
                [*self._java(), "kafka.Kafka", str(self._configuration)],
                stdout=output,
                stderr=output,
                cwd=self._folder,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not _accepts(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = (self._folder / "kafka.out").read_text(errors="replace")[-2000:]
                raise KafkaUnavailable(f"Kafka did not start:\n{tail}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Stops the node cleanly."""
        self._end(kill=False)

    def kill(self) -> None:
        """Ends the node like a crash; its log stays on disk."""
        self._end(kill=True)

    def lose_log(self) -> None:
        """Deletes what the stopped node held; the next start is a new, empty log."""
        shutil.rmtree(self._folder / "log", ignore_errors=True)
        self._configuration.unlink(missing_ok=True)

    def _end(self, *, kill: bool) -> None:
        if self._process is None:
            return
        if kill:
            self._process.kill()
        else:
            self._process.terminate()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _java(self) -> list[str]:
        return [
            "java",
            f"-Xmx{self._heap_mib}m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-cp",
            f"{LIBS}/*",
        ]

    def _format(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        text = CONFIGURATION.format(
            port=self.port,
            advertised_port=self.advertised_port,
            controller_port=_free_port(),
            log_dir=self._folder / "log",
        )
        self._configuration.write_text(text)
        # Sixteen bytes as Kafka writes them; one that began with a hyphen would be read as an option.
        cluster_id = "R" + secrets.token_urlsafe(16)[1:]
        formatted = subprocess.run(
            [
                *self._java(),
                "kafka.tools.StorageTool",
                "format",
                "-t",
                cluster_id,
                "-c",
                str(self._configuration),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if formatted.returncode != 0:
            raise KafkaUnavailable(f"the log could not be formatted:\n{formatted.stderr[-2000:]}")


def fetch_jars() -> None:
    """Brings Kafka's jars from Maven Central, once.

    Raises:
        KafkaUnavailable: `java` or `mvn` is not installed, or Maven could not bring the jars.
    """
    for tool, package in (("java", "a Java 17 runtime"), ("mvn", "Maven")):
        if shutil.which(tool) is None:
            raise KafkaUnavailable(f"`{tool}` is not installed; Apache Kafka needs {package}")
    if (LIBS / ".complete").exists():
        return
    print("Fetching Apache Kafka from Maven Central", flush=True)
    fetched = subprocess.run(
        [
            "mvn",
            "-q",
            "-B",
            "-f",
            str(HERE / "pom.xml"),
            "dependency:copy-dependencies",
            "-DincludeScope=runtime",
            f"-DoutputDirectory={LIBS}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if fetched.returncode != 0:
        raise KafkaUnavailable(f"Maven could not bring the jars:\n{fetched.stdout[-2000:]}")
    (LIBS / ".complete").touch()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0
