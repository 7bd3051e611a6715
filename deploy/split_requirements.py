"""Writes the parts of requirements.txt that the image needs: what runs, and what builds it.

`make lock` runs it, a test checks that the parts are fresh. The lock says of each package what wants it
(`# via`), so what the run set needs can be read from it; the image carries no test tool, no type checker
and no embedded database. Sections of requirements.in begin with a comment line: `# run`, `# build`.
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parent.parent
PARTS = ("run", "build")
HEAD = "# The {part} part of requirements.txt. Written by `make lock`; do not edit.\n"


def sections(text: str) -> dict[str, set[str]]:
    """Gives the names in each section of requirements.in."""
    found: dict[str, set[str]] = {}
    names: set[str] = set()
    for line in text.splitlines():
        if line.startswith("#"):
            names = found.setdefault(line.removeprefix("#").strip(), set())
        elif line.strip():
            names.add(_name(line))
    return found


def blocks(lock: str) -> dict[str, str]:
    """Gives each package's lines of the lock, by name."""
    parts = re.split(r"(?m)^(?=[A-Za-z0-9])", lock)
    return {_name(part): part for part in parts if "==" in part}


def needed(wanted: Iterable[str], packages: dict[str, str]) -> list[str]:
    """Gives the wanted packages and all that they need, sorted.

    Raises:
        KeyError: The lock has no such package.
    """
    parents = {name: _parents(block) for name, block in packages.items()}
    found = set(wanted)
    if missing := found - set(packages):
        raise KeyError(f"not in requirements.txt: {', '.join(sorted(missing))}")
    size = 0
    while size != len(found):
        size = len(found)
        found |= {name for name, wants in parents.items() if wants & found}
    return sorted(found)


def split(root: Path) -> dict[Path, str]:
    """Gives the text of each part by the file it belongs into."""
    packages = blocks((root / "requirements.txt").read_text())
    wanted = sections((root / "requirements.in").read_text())
    return {
        root / "deploy" / f"requirements-{part}.txt": HEAD.format(part=part)
        + "".join(packages[name] for name in needed(wanted[part], packages))
        for part in PARTS
    }


def _parents(block: str) -> set[str]:
    via = block.partition("# via")[2]
    return {
        _name(word) for word in re.findall(r"[A-Za-z0-9][\w.-]*", via) if word != "requirements.in"
    }


def _name(line: str) -> str:
    found = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", line)
    return re.sub(r"[._-]+", "-", found.group(0)).lower() if found else ""


if __name__ == "__main__":
    for path, text in split(ROOT).items():
        path.write_text(text)
        sys.stdout.write(f"wrote {path.relative_to(ROOT)}\n")
