"""Where the platform's processes come from: a process that has imported everything and forks.

An import costs two seconds of a core, a trial starts dozens of processes, and what is under test begins
at the service's own `__main__`. A child shares nothing with its siblings but the pages of imported code:
the nursery opens no connection, no loop and no thread.

Protocol, a line each way: `{"start": {service, kind, environment, log}}` gives a process id,
`{"code": pid}` the exit code of one that has ended.
"""

import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

STOP_TIMEOUT_SECONDS = 30


class Nursery:
    """Starts processes of the platform."""

    def __init__(self, folder: Path) -> None:
        self._lock = threading.Lock()
        with (folder / "nursery.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.nursery"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=Path(__file__).parents[2],
            )

    def start(self, service: str, kind: str, environment: dict[str, str], log: Path) -> "Child":
        """Starts `python -m SERVICE KIND`."""
        order = {"service": service, "kind": kind, "environment": environment, "log": str(log)}
        return Child(self, self._ask({"start": order}))

    def code(self, pid: int) -> int:
        """Gives the exit code of a child that has ended."""
        return self._ask({"code": pid})

    def close(self) -> None:
        """Ends the nursery and whatever is left of its children."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=STOP_TIMEOUT_SECONDS)
        self._process.stdout.close()

    def _ask(self, question: dict[str, Any]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
            return int(self._process.stdout.readline())


@dataclass(slots=True)
class Child:
    """A process of the platform."""

    nursery: Nursery
    pid: int
    code: int | None = None
    _descriptor: int = field(init=False)

    def __post_init__(self) -> None:
        # A zombie until the nursery is asked for its code, so the id is nobody else's meanwhile.
        self._descriptor = os.pidfd_open(self.pid)

    def poll(self) -> int | None:
        """Gives the exit code once it has ended."""
        return self._wait(0)

    def send(self, number: signal.Signals) -> None:
        """Sends a signal, if it still lives."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._descriptor, number)

    def kill(self) -> None:
        """Ends it like a crash."""
        self.send(signal.SIGKILL)
        self._wait(STOP_TIMEOUT_SECONDS)

    def stop(self) -> None:
        """Ends it cleanly."""
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        if self._wait(STOP_TIMEOUT_SECONDS) is None:
            self.kill()

    def _wait(self, seconds: float) -> int | None:
        if self.code is None and select.select([self._descriptor], [], [], seconds)[0]:
            self.code = self.nursery.code(self.pid)
            os.close(self._descriptor)
        return self.code


def _serve(orders: IO[bytes], answers: IO[bytes]) -> None:
    children: set[int] = set()
    for line in orders:
        order = json.loads(line)
        if "start" in order:
            pid = os.fork()
            if pid == 0:
                _become(**order["start"])
            children.add(pid)
            answer = pid
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(order["code"], 0)[1])
            children.discard(order["code"])
        answers.write(f"{answer}\n".encode())
        answers.flush()
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _become(service: str, kind: str, environment: dict[str, str], log: str) -> None:
    """Is the service from here on."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        _redirect(os.devnull, os.O_RDONLY, (0,))
        _redirect(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, (1, 2))
        os.environ.update(environment)
        importlib.import_module("tests.chaos.process").main(service, kind)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _redirect(path: str, flags: int, targets: tuple[int, ...]) -> None:
    descriptor = os.open(path, flags, 0o600)
    for target in targets:
        os.dup2(descriptor, target)
    os.close(descriptor)


def _import_everything() -> None:
    for service in ("booking", "engagement", "feedback", "scoring"):
        importlib.import_module(f"{service}.app")
    importlib.import_module("tests.chaos.process")


if __name__ == "__main__":
    # Ctrl-C goes to the whole terminal; the trial that it ends stops the children in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _import_everything()
    _serve(sys.stdin.buffer, sys.stdout.buffer)
