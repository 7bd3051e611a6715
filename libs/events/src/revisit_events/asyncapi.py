"""JSON Schemas of the contracts and the AsyncAPI 3 documents made from them, and their routes."""

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Response

from revisit_chassis.problem import Problem
from revisit_events.catalog import CATALOG, PUBLISHED, schema_path, topic_of
from revisit_events.contracts import EventData
from revisit_events.shapes import shape_of

_DRAFT = "https://json-schema.org/draft/2020-12/schema"

_ATTRIBUTES: Mapping[str, tuple[bool, dict[str, Any]]] = {
    "ce_specversion": (True, {"const": "1.0"}),
    "ce_id": (True, {"description": "Made once, kept through every retry."}),
    "ce_source": (True, {"description": "Producer: a service, such as /booking, or a clinic's."}),
    "ce_type": (True, {}),
    "ce_subject": (True, {"description": "Id of the aggregate."}),
    "ce_time": (True, {"format": "date-time", "description": "When the fact happened, UTC."}),
    "ce_clinicid": (True, {"format": "uuid", "description": "Tenant."}),
    "ce_partitionkey": (True, {"description": "clinicid:patient_id, or clinicid:subject."}),
    "ce_dataschema": (True, {"description": "URL path of the data's JSON Schema."}),
    "ce_sequence": (
        False,
        {"pattern": "^[0-9]{20}$", "description": "Version of the aggregate."},
    ),
    "ce_correlationid": (False, {"description": "Business flow."}),
    "ce_causationid": (False, {"description": "Id of the event that led to this one."}),
    "ce_traceparent": (False, {"description": "W3C trace context."}),
    "content-type": (True, {"const": "application/json"}),
}


def json_schema(contract: type[EventData]) -> dict[str, Any]:
    """Gives the JSON Schema of a contract's data as it stands on Kafka."""
    schema = shape_of(contract).model_json_schema()
    schema["description"] = description(contract)
    return {"$schema": _DRAFT, "$id": schema_path(contract.TYPE), **_tidy(schema)}


def description(contract: type[EventData]) -> str:
    """Gives a contract's docstring in one line."""
    return _one_line(contract.__doc__ or "")


def document(service: str | None = None) -> dict[str, Any]:
    """Gives the AsyncAPI 3 document of a service, or of the whole platform.

    Args:
        service: The service whose sent and received events are described; all when left out.
    """
    relevant = {
        event_type: contract
        for event_type, contract in PUBLISHED.items()
        if service is None or service == contract.OWNER or service in contract.CONSUMERS
    }
    title = "Revisit" if service is None else f"Revisit: {service}"
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": title,
            "version": "1.0.0",
            "description": "CloudEvents 1.0 in binary mode. Order holds within a topic and key.",
        },
        "defaultContentType": "application/json",
        "channels": _channels(relevant),
        "operations": _operations(relevant, service),
        "components": {
            "messages": {t: _message(contract) for t, contract in relevant.items()},
            "schemas": {
                "attributes": _attributes_schema(),
                **{t: _embedded(contract) for t, contract in relevant.items()},
            },
        },
    }


def routes(service: str) -> APIRouter:
    """Gives `GET /asyncapi.yaml` of a service and the schemas that `dataschema` points to.

    Args:
        service: Name of the service.
    """
    router = APIRouter(tags=["events"])
    generated = files("revisit_events")

    @router.get("/asyncapi.yaml", operation_id="asyncapi", response_class=Response)
    async def asyncapi() -> Response:
        """The events that this service sends and receives, as AsyncAPI 3."""
        text = generated.joinpath("asyncapi_documents", f"{service}.yaml").read_text("utf-8")
        return Response(text, media_type="application/yaml")

    @router.get("/schemas/{event_type}.json", operation_id="schema", response_class=Response)
    async def schema(event_type: str) -> Response:
        """The JSON Schema of an event type's data."""
        if event_type not in PUBLISHED:
            raise Problem(404, "not-found", "No event has this type; see /asyncapi.yaml.")
        text = generated.joinpath("schemas", f"{event_type}.json").read_text("utf-8")
        return Response(text, media_type="application/schema+json")

    return router


def _channels(relevant: Mapping[str, type[EventData]]) -> dict[str, Any]:
    channels: dict[str, Any] = {}
    for event_type, contract in relevant.items():
        topic = topic_of(event_type)
        channel = channels.setdefault(topic, {"address": topic, "messages": {}})
        channel["messages"][event_type] = {"$ref": f"#/components/messages/{event_type}"}
        if contract.COMPACTED:
            channel["bindings"] = {"kafka": {"topicConfiguration": {"cleanup.policy": ["compact"]}}}
    return channels


def _operations(relevant: Mapping[str, type[EventData]], service: str | None) -> dict[str, Any]:
    operations: dict[str, Any] = {}
    for contract in relevant.values():
        if contract.TYPE not in CATALOG:
            continue
        topic = topic_of(contract.TYPE)
        if service in {None, contract.OWNER}:
            operations[f"{contract.OWNER}.send.{topic}"] = _operation("send", topic, contract)
        for consumer in contract.CONSUMERS:
            if service in {None, consumer}:
                operations[f"{consumer}.receive.{topic}"] = _operation("receive", topic, contract)
    return operations


def _operation(action: str, topic: str, contract: type[EventData]) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{topic}"},
        "summary": description(contract),
    }


def _message(contract: type[EventData]) -> dict[str, Any]:
    return {
        "name": contract.TYPE,
        "title": contract.__name__,
        "summary": description(contract),
        "contentType": "application/json",
        "headers": {"$ref": "#/components/schemas/attributes"},
        "payload": {"$ref": f"#/components/schemas/{contract.TYPE}"},
        "bindings": {"kafka": {"key": {"type": "string", "description": "partitionkey"}}},
    }


def _attributes_schema() -> dict[str, Any]:
    return {
        "type": "object",
        "required": [name for name, (is_required, _) in _ATTRIBUTES.items() if is_required],
        "properties": {name: {"type": "string", **rest} for name, (_, rest) in _ATTRIBUTES.items()},
    }


def _embedded(contract: type[EventData]) -> dict[str, Any]:
    """Gives the schema without `$id`, its definitions referred to from inside the document."""
    schema = json_schema(contract)
    del schema["$schema"], schema["$id"]
    embedded: dict[str, Any] = _rebased(schema, f"#/components/schemas/{contract.TYPE}/$defs/")
    return embedded


def _rebased(value: Any, base: str) -> Any:
    if isinstance(value, dict):
        return {
            key: base + inner.removeprefix("#/$defs/") if key == "$ref" else _rebased(inner, base)
            for key, inner in value.items()
        }
    return [_rebased(inner, base) for inner in value] if isinstance(value, list) else value


def _tidy(value: Any) -> Any:
    """Takes out what pydantic adds for its own use: titles of fields, defaults of null."""
    if isinstance(value, dict):
        return {
            key: _one_line(inner) if isinstance(inner, str) else _tidy(inner)
            for key, inner in value.items()
            if not _is_noise(key, inner, value)
        }
    return [_tidy(inner) for inner in value] if isinstance(value, list) else value


def _is_noise(key: str, inner: Any, holder: Mapping[str, Any]) -> bool:
    if key == "title":
        return isinstance(inner, str) and "properties" not in holder
    return key == "default" and inner is None


def _one_line(text: str) -> str:
    return " ".join(text.split())
