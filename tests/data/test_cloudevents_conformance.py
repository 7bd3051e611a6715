"""The CloudEvents conformance events, as far as they speak of a JSON intake."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from revisit_events import kafka, testing
from revisit_events.envelope import InvalidEvent
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


def send(event: dict[str, Any], mode: str) -> list[str]:
    """Sends an event in a mode; gives why it was refused, in each of the texts a sender sees."""
    clinic_id = testing.visit_completed().clinic_id
    if mode == "kafka":
        headers = [(f"ce_{name}", str(value).encode()) for name, value in event.items()]
        try:
            kafka.decode("visit.completed", b"{}", headers)
        except InvalidEvent as refused:
            return [refused.detail]
        return []
    if mode == "binary":
        found = {f"ce-{name}": str(value) for name, value in event.items()}
        raw = raw_events(b"{}", {**found, "content-type": "application/json"})
    elif mode == "batch":
        body = json.dumps([event | {"data": {}}]).encode()
        raw = raw_events(body, {"content-type": "application/cloudevents-batch+json"})
    else:
        body = json.dumps(event | {"data": {}}).encode()
        raw = raw_events(body, {"content-type": "application/cloudevents+json"})
    return [str(one.refusal.as_json()) for one in receive(raw, clinic_id, ACCEPTED).refused]


MODES = ("structured", "batch", "binary", "kafka")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["v03.yaml", "v0.3/v03_minimum.yaml"])
def test_v03_events_are_refused_with_a_clear_error(shared_data: Path, name: str, mode: str) -> None:
    for document in conformance(shared_data, name):
        (text,) = send(attributes(document) | {"specversion": "0.3"}, mode)
        assert "specversion" in text
        assert "1.0" in text


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["v1.yaml", "v1.0/v1_minimum.yaml"])
def test_v1_events_are_read_and_refused_only_for_their_foreign_type(
    shared_data: Path, name: str, mode: str
) -> None:
    for document in conformance(shared_data, name):
        found = attributes(document) | {"specversion": "1.0"}
        # YAML reads the time as a moment and writes it in a form of its own.
        found["time"] = "2018-04-05T03:56:24Z"
        (text,) = send(found, mode)
        assert "type" in text
        assert "specversion" not in text


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
