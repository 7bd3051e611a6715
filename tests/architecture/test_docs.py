"""README and docs name only what is there: files, folders, targets of make, tests."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "services").glob("*/README.md")),
]
TOP = {path.name for path in ROOT.iterdir()} - {".venv", ".run", ".env"}
MADE = ("deploy/secrets",)
"""Made by a command, so not in a fresh clone."""


def names(page: Path) -> Iterator[str]:
    """What a page writes as code or links to, and looks like a path of the project."""
    text = page.read_text()
    for word in re.findall(r"`([^`\n]+)`", text):
        for part in word.split():
            path = part.split("::")[0].rstrip("/.,;:")
            if path.split("/")[0] in TOP and "<" not in path and "=" not in path:
                yield path
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in link:
            yield str((page.parent / link).resolve().relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    missing = [
        name
        for name in names(page)
        if name not in MADE
        and not (list(ROOT.glob(name)) if "*" in name else (ROOT / name).exists())
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    for path, test in re.findall(r"`([\w/]+\.py)::(\w+)`", page.read_text()):
        assert re.search(rf"def {test}\b", (ROOT / path).read_text()), f"{path}::{test}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_target_of_make_that_a_page_names_exists(page: Path) -> None:
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    named = set(re.findall(r"`make (?:-s )?([a-z-]+)", page.read_text()))
    assert named <= targets


def test_every_decision_says_what_enforces_it() -> None:
    for page in (ROOT / "docs" / "adr").glob("*.md"):
        text = page.read_text()
        assert "\n## Enforced by\n\n" in text, page
        assert len(text.split("\n## Enforced by\n\n")[1].strip()) > 5, page


def test_glossary_places_each_word_where_it_is() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and "`" in line]
    assert len(rows) > 30
    for row in rows:
        path = re.findall(r"`([^`]+)`", row)[-1]
        assert list(ROOT.glob(path)), row
