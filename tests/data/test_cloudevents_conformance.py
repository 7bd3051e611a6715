"""The CloudEvents conformance events, as far as they speak of a JSON intake."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from revisit_events import kafka, testing
from revisit_events.http import raw_events
from revisit_events.reception import receive
from revisit_events.refusal import RefusedError

pytestmark = pytest.mark.data
ACCEPTED = {testing.visit_completed.contract.TYPE: testing.visit_completed.contract}


def conformance(shared_data: Path, name: str) -> list[dict[str, Any]]:
    path = shared_data / "cloudevents" / "conformance" / "yaml" / name
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def attributes(document: dict[str, Any]) -> dict[str, str]:
    found = {k: str(v) for k, v in document["ContextAttributes"].items() if k != "Extensions"}
    found |= {
        k: str(v).strip()
        for k, v in (document["ContextAttributes"].get("Extensions") or {}).items()
    }
    return found


def test_v03_events_are_refused_with_a_clear_error_in_every_mode(shared_data: Path) -> None:
    for name in ("v03.yaml", "v0.3/v03_minimum.yaml"):
        for document in conformance(shared_data, name):
            found = attributes(document) | {"specversion": "0.3"}
            event = testing.visit_completed()
            structured: dict[str, Any] = {**found, "data": {}}
            raw = raw_events(
                json.dumps(structured).encode(),
                {"content-type": "application/cloudevents+json"},
            )
            refused = receive(raw, event.clinic_id, ACCEPTED).refused
            assert len(refused) == 1
            text = str(refused[0].refusal.as_json())
            assert "1.0" in text
            assert "0.3" in text


def test_v1_events_are_read_and_refused_only_for_their_foreign_type(shared_data: Path) -> None:
    for document in conformance(shared_data, "v1.yaml"):
        found = attributes(document)
        found["time"] = "2018-04-05T03:56:24Z"
        raw = raw_events(
            json.dumps(found | {"specversion": "1.0", "data": {}}).encode(),
            {"content-type": "application/cloudevents+json"},
        )
        refused = receive(raw, testing.visit_completed().clinic_id, ACCEPTED).refused
        assert len(refused) == 1
        assert "type" in str(refused[0].refusal.as_json())


def test_binary_mode_of_the_minimum_events_is_read(shared_data: Path) -> None:
    for document in conformance(shared_data, "v1.0/v1_minimum.yaml"):
        found = attributes(document)
        headers = {
            f"ce-{name}": value for name, value in found.items() if name != "datacontenttype"
        }
        headers |= {"ce-specversion": "1.0", "content-type": found["datacontenttype"]}
        try:
            raw = raw_events(document["Data"].encode(), headers)
        except RefusedError:
            # Only JSON carries an event of the catalogue; text and XML are told so.
            assert "json" not in found["datacontenttype"]
            continue
        refused = receive(raw, testing.visit_completed().clinic_id, ACCEPTED).refused
        assert len(refused) == 1


def test_what_we_publish_matches_the_json_schema_of_the_specification(shared_data: Path) -> None:
    path = shared_data / "cloudevents" / "spec" / "cloudevents" / "formats" / "cloudevents.json"
    schema = yaml.safe_load(path.read_text())
    event = testing.visit_completed(sequence=3)
    structured: dict[str, Any] = dict(kafka.attributes(event))
    structured["data"] = yaml.safe_load(event.data_json())
    jsonschema.validate(structured, schema)
