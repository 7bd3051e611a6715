"""Every failpoint of the code is a place where a trial lets a process die."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHAOS = Path(__file__).parent
NAMED = re.compile(r'failpoint\(\s*"([\w.]+)"')


def _places() -> set[str]:
    return {
        name
        for folder in ("libs", "services", "deploy")
        for path in (ROOT / folder).rglob("src/**/*.py")
        for name in NAMED.findall(path.read_text())
    }


def _used() -> str:
    return "".join(path.read_text() for path in CHAOS.glob("*.py") if path != Path(__file__))


def test_every_failpoint_is_used() -> None:
    used = _used()
    # Anywhere is spelled with its two sides in `crashes.crash_anywhere`.
    anywhere = {"database.before_commit", "database.after_commit"}
    assert _places() >= anywhere
    idle = {name for name in _places() - anywhere if f'"{name}' not in used and name not in used}
    assert not idle, "let a trial of tests/chaos die there"


def test_every_place_of_a_trial_exists() -> None:
    asked = set(re.findall(r'"([a-z_]+\.[a-z_]+):\d+"', _used()))
    assert len(asked) > 10
    assert asked <= _places()
