"""The data folder: one platform at a time lives in it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class FolderInUse(RuntimeError):
    """Another platform serves from this data folder; stop it first, or give another --data-dir."""


@contextmanager
def sole_user(data_dir: Path) -> Iterator[None]:
    """Holds the data folder for this process; the kernel lets go of it however the process ends.

    Args:
        data_dir: Made when it is missing.

    Raises:
        FolderInUse: Another process holds it.
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Opened for appending: the holder's number must survive the attempt of a second one.
    with (data_dir / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise FolderInUse(
                f"{data_dir} is in use by process {holder}; stop it first, or give another --data-dir"
            ) from error
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield
