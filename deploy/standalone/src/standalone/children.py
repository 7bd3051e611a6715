"""Child processes that never outlive the platform.

A child asks the kernel for a signal when its parent dies (Linux), so that even `kill -9` of the platform
leaves nobody behind. Where that is not possible, the note in the data folder tells the next start whom to
end: by process id and by command line, because the id alone may have gone to somebody else.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1
END_TIMEOUT_SECONDS = 20.0


def dies_with_parent(number: signal.Signals) -> Callable[[], None] | None:
    """Gives a `preexec_fn` that ties a child's life to this process; none where that cannot be had.

    The kernel sends the signal when the *thread* ends that started the child, so only the main thread,
    which lives as long as the process, may ask for it.

    Args:
        number: What the child gets.
    """
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)  # the parent died before it was asked

    return ask


@dataclass(frozen=True, slots=True)
class Note:
    """A file that remembers a running child for the next start.

    Args:
        path: Of the file.
    """

    path: Path

    def write(self, process: "subprocess.Popen[bytes]", command: Sequence[str]) -> None:
        """Remembers a child."""
        self.path.write_text(json.dumps({"pid": process.pid, "command": list(command)}))

    def forget(self) -> None:
        """Forgets it: it has ended."""
        self.path.unlink(missing_ok=True)

    def end_left_over(self) -> None:
        """Ends the child of an earlier start that was killed, if it still runs."""
        try:
            noted = json.loads(self.path.read_text())
            pid, command = int(noted["pid"]), [str(part) for part in noted["command"]]
        except (OSError, ValueError, KeyError, TypeError):
            return
        if command_of(pid) == command:
            os.kill(pid, signal.SIGKILL)
            wait_for_end(pid)
        self.forget()


def command_of(pid: int) -> list[str]:
    """Gives the command line of a process; empty when there is none or it has ended."""
    try:
        parts = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []
    return [part.decode(errors="replace") for part in parts[:-1]]


def wait_for_end(pid: int) -> None:
    """Waits until a process that is no child of ours has ended.

    Raises:
        TimeoutError: It does not end.
    """
    deadline = time.monotonic() + END_TIMEOUT_SECONDS
    while command_of(pid):  # a zombie has no command line any more
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} of an earlier start does not end")
        time.sleep(0.02)
