"""What was published once stays readable: every golden example, of every version."""

import json
from pathlib import Path
from typing import Any

import pytest

from revisit_events import catalog, kafka

EXAMPLES = sorted((Path(catalog.__file__).parent / "examples").glob("*.json"))


def decoded(path: Path) -> Any:
    document = json.loads(path.read_text())
    data = json.dumps(document.pop("data")).encode()
    headers = [("content-type", document.pop("datacontenttype").encode())]
    headers += [(f"ce_{name}", value.encode()) for name, value in document.items()]
    return kafka.decode(catalog.topic_of(document["type"]), data, headers)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_golden_example_is_read_as_the_newest_version(path: Path) -> None:
    event = decoded(path)
    assert type(event.data) is catalog.CATALOG[catalog.current_type(event.topic)]


def test_every_published_version_has_its_example() -> None:
    assert {path.stem for path in EXAMPLES} == set(catalog.PUBLISHED)
    assert set(catalog.PUBLISHED) > set(catalog.CATALOG)  # an older version is among them
