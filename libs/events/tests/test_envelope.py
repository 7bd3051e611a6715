"""An event survives every way it travels, and of two events one order decides."""

import doctest
import importlib
import json
import pkgutil
import uuid
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import revisit_events
from revisit_chassis.trace import take_traceparent
from revisit_events import dlq, generate, kafka, outbox, rejected, retry, testing
from revisit_events.catalog import CATALOG, PUBLISHED, UPCASTERS, topic_of, upcast
from revisit_events.contracts import SurveyAnswered
from revisit_events.contracts.fields import EARLIEST, LATEST
from revisit_events.digest import body_digest
from revisit_events.envelope import AnyEvent, InvalidEvent, new_event, precedence
from revisit_events.http import raw_events
from revisit_events.reception import Reception, receive
from revisit_events.refusal import RefusedError
from revisit_events.topics import dead_letter_topic

CURRENT = sorted(CATALOG)
texts = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=60).filter(
    lambda text: text == text.strip().strip('"')
)
times = st.datetimes(
    EARLIEST.replace(tzinfo=None), LATEST.replace(tzinfo=None) - timedelta(days=1)
).map(lambda time: time.replace(tzinfo=UTC))

traces = st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", fullmatch=True)


@st.composite
def events(draw: Callable[..., Any]) -> AnyEvent:
    event: AnyEvent = testing.BUILDERS[draw(st.sampled_from(CURRENT))](
        time=draw(times),
        source=draw(texts),
        id=draw(texts),
        sequence=draw(st.none() | st.integers(0, 2**63 - 1)),
    )
    return replace(
        event,
        correlation_id=draw(st.none() | texts),
        causation_id=draw(st.none() | texts),
        traceparent=draw(st.none() | traces),
    )


@given(events())
def test_event_read_from_kafka_is_the_one_that_was_published(event: AnyEvent) -> None:
    message = outbox.message_of(event)
    again = kafka.decode(message.topic, message.data, outbox.record_headers(message))
    # A tombstone says that there is no contact, and nothing else.
    assert replace(again, data=event.data) == event
    assert message.data is None or again.data == event.data


@given(events())
def test_headers_of_a_record_are_the_attributes(event: AnyEvent) -> None:
    headers = outbox.record_headers(outbox.message_of(event))
    found = {name: text.decode() for name, text in headers}
    assert len(found) == len(headers)
    assert found.pop("content-type") == kafka.CONTENT_TYPE
    assert found == {f"ce_{name}": text for name, text in kafka.attributes(event).items()}


@given(st.dictionaries(st.sampled_from(["ce_type", "ce_id", "ce_time", "dead-letter-id"]), texts))
def test_headers_of_what_is_no_event_are_those_that_are_stored(stored: dict[str, str]) -> None:
    letter = outbox.Message(
        uuid4(), dead_letter_topic("scoring"), "k", "a letter", json.dumps(stored), b"{}"
    )
    assert outbox.record_headers(letter) == [(n, text.encode()) for n, text in stored.items()]


def over_http(event: AnyEvent, mode: str) -> Reception:
    data = json.loads(event.data_json())
    attributes = kafka.attributes(event)
    if mode == "binary":
        headers = {f"ce-{name}": quote(text) for name, text in attributes.items()}
        headers["content-type"] = "application/json; charset=utf-8"
        raw = raw_events(json.dumps(data).encode(), headers)
    else:
        one = {**attributes, "data": data}
        kind = "cloudevents-batch" if mode == "batch" else "cloudevents"
        body = [one] if mode == "batch" else one
        raw = raw_events(json.dumps(body).encode(), {"content-type": f"application/{kind}+json"})
    return receive(raw, event.clinic_id, CATALOG)


@pytest.mark.parametrize("mode", ["structured", "batch", "binary"])
@given(event=events())
def test_event_taken_over_http_is_the_one_that_was_sent(mode: str, event: AnyEvent) -> None:
    reception = over_http(event, mode)
    assert reception.refused == []
    ((index, again),) = reception.events
    assert (index, again) == (0, event)
    assert body_digest(again) == body_digest(event)


@given(st.binary(max_size=60), st.dictionaries(st.text(max_size=12), st.binary(max_size=12)))
def test_reader_of_topics_raises_nothing_but_invalid_event(
    value: bytes, found: dict[str, bytes]
) -> None:
    headers = [("ce_" + name, text) for name, text in found.items()]
    with pytest.raises(InvalidEvent):
        kafka.decode("visit.completed", value, headers)


orders = st.tuples(times, st.none() | st.integers(0, 2**63 - 1), st.integers(0, 999), texts)


@given(orders, orders)
def test_texts_of_precedence_compare_like_what_they_are_made_of(
    first: tuple[datetime, int | None, int, str], second: tuple[datetime, int | None, int, str]
) -> None:
    def key(one: tuple[datetime, int | None, int, str]) -> tuple[datetime, int, int, bytes]:
        return (one[0], one[1] or 0, one[2], one[3].encode())

    one, other = precedence(*first).encode(), precedence(*second).encode()
    assert (one < other) == (key(first) < key(second))
    assert (one == other) == (key(first) == key(second))


def test_precedence_is_total_across_sources_with_the_same_ids() -> None:
    event = testing.visit_completed(id="1", source="//a")
    assert event.precedence < replace(event, source="//b").precedence
    spaced = [replace(event, id="x y", source="z"), replace(event, id="x", source="y z")]
    assert len({one.precedence for one in spaced}) == len(spaced)


def test_digest_covers_what_is_said_and_nothing_else() -> None:
    event = testing.visit_completed()
    elsewhere = event.time.astimezone(timezone(timedelta(hours=3)))
    same = replace(
        event, time=elsewhere, id="other", traceparent="t", _encoded=None, _time_text=None
    )
    assert body_digest(same) == body_digest(event)
    for changed in (
        replace(event, sequence=1),
        replace(event, time=event.time + timedelta(microseconds=1), _time_text=None),
        replace(event, data=msgspec.structs.replace(event.data, outcome="healthy"), _encoded=None),
    ):
        assert body_digest(changed) != body_digest(event)


@given(kind=st.sampled_from(["csat", "nps", "ces", "servqual"]), score=st.integers(0, 10))
def test_first_version_of_an_answer_is_read_as_the_second(kind: str, score: int) -> None:
    old = testing.survey_answered_v1(kind=kind, score=float(score))
    message = outbox.message_of(old)
    again = kafka.decode(message.topic, message.data, outbox.record_headers(message))
    assert isinstance(again.data, SurveyAnswered)
    assert (again.data.kind, again.data.score) == (kind, score)
    assert again.data.scale_min < again.data.scale_max
    # What is kept in the event log is the current version.
    assert json.loads(again.data_json())["scale_max"] == again.data.scale_max


@pytest.mark.parametrize("event_type", sorted(PUBLISHED))
def test_golden_example_is_read_in_the_current_version(event_type: str) -> None:
    golden = json.loads((generate.EXAMPLES / f"{event_type}.json").read_text())
    assert golden["type"] == event_type
    headers = [(f"ce_{n}", str(v).encode()) for n, v in golden.items() if n != "data"]
    event = kafka.decode(topic_of(event_type), json.dumps(golden["data"]).encode(), headers)
    assert event.type not in UPCASTERS
    assert upcast(event.data) == event.data


def test_golden_example_that_its_contract_no_longer_writes_is_stale() -> None:
    golden = json.loads((generate.EXAMPLES / "visit.completed.v1.json").read_text())
    assert generate._read_again(json.dumps(golden)) == golden
    golden["data"]["renamed_since"] = "x"
    assert generate._read_again(json.dumps(golden)) != golden


def test_nothing_but_golden_examples_is_in_their_folder() -> None:
    assert {path.stem for path in generate.EXAMPLES.glob("*.json")} == set(PUBLISHED)


@given(st.integers(1, 10_000))
def test_pauses_grow_and_are_bounded(failures: int) -> None:
    pause = retry.pause_seconds(failures)
    longest = min(retry.LONGEST_SECONDS, retry.FIRST_SECONDS * 2.0 ** min(failures, 20))
    assert longest / 2 <= pause <= longest


def test_event_made_for_a_cause_carries_its_flow_and_trace_on() -> None:
    cause = replace(testing.visit_completed(id="cause"), traceparent="00-trace")
    effect = new_event(
        testing.task_opened().data,
        source="/engagement",
        clinic_id=cause.clinic_id,
        time=cause.time,
        cause=cause,
    )
    assert (effect.correlation_id, effect.causation_id) == ("cause", "cause")
    assert effect.traceparent == "00-trace"


def test_events_of_a_request_belong_to_its_trace_unless_they_name_one() -> None:
    trace = f"00-{'a' * 32}-{'b' * 16}-01"

    def taken() -> None:
        take_traceparent(trace.encode())
        event, own = (
            testing.visit_completed(),
            replace(testing.visit_completed(), traceparent=f"00-{'c' * 32}-{'d' * 16}-00"),
        )
        assert event.traceparent == trace
        assert over_http(replace(event, traceparent=None), "structured").events[0][1] == event
        assert over_http(own, "structured").events[0][1].traceparent == own.traceparent
        for junk in ("junk", "00-trace", trace.upper()):
            named = replace(own, traceparent=junk)
            assert over_http(named, "structured").events[0][1].traceparent == trace
        take_traceparent(b"no trace")
        assert testing.visit_completed().traceparent is None

    copy_context().run(taken)


def test_error_is_described_without_what_it_holds() -> None:
    text = dlq.describe(KeyError("Anna, +7 921"))
    assert text == "KeyError"
    assert "Anna" not in dlq.describe(ValueError("Anna"))


def test_bodies_past_the_limits_are_refused() -> None:
    batch = {"content-type": "application/cloudevents-batch+json"}
    assert len(raw_events(b"[" + b"{}," * 999 + b"{}]", batch).events) == 1000
    for body in (b"[" + b"{}," * 1000 + b"{}]", b" " * (4 * 1024 * 1024 + 1)):
        with pytest.raises(RefusedError) as refused:
            raw_events(body, batch)
        assert refused.value.refusal.status == 413


def test_large_event_spoils_only_itself_in_a_batch() -> None:
    event = testing.visit_completed()
    good = {**kafka.attributes(event), "data": json.loads(event.data_json())}
    large = {**good, "id": "large", "padding": "x" * 300_000}
    raw = raw_events(
        json.dumps([large, good]).encode(), {"content-type": "application/cloudevents-batch+json"}
    )
    reception = receive(raw, event.clinic_id, CATALOG)
    assert [(one.index, one.refusal.status) for one in reception.refused] == [(0, 413)]
    assert [index for index, _ in reception.events] == [1]


@pytest.mark.parametrize("depth", [150, 500, *range(900, 1000, 2), 5_000])
def test_event_nested_too_deep_spoils_only_itself_in_a_large_batch(depth: int) -> None:
    event = testing.visit_completed()
    good = {**kafka.attributes(event), "data": json.loads(event.data_json())}
    deep = json.dumps({**good, "id": "deep", "padding": "x" * 300_000, "zz": 0})
    deep = deep.replace('"zz": 0', f'"zz": {"[" * depth}{"]" * depth}')
    body = f"[{deep}, {json.dumps(good)}]".encode()
    batch = {"content-type": "application/cloudevents-batch+json"}
    if depth > 1_000:  # so deep that nobody reads it
        with pytest.raises(RefusedError):
            raw_events(body, batch)
        return
    try:
        raw = raw_events(body, batch)
    except RefusedError:
        return  # how deep it goes hangs on who calls
    reception = receive(raw, event.clinic_id, CATALOG)
    assert [(one.index, one.refusal.status) for one in reception.refused] == [(0, 413)]
    assert [index for index, _ in reception.events] == [1]
    assert rejected._body_of(raw.events[0]).startswith("{")


def test_sequence_past_its_range_is_refused_with_the_range() -> None:
    event = testing.visit_completed()
    body = {
        **kafka.attributes(event),
        "sequence": "9" * 20,
        "data": json.loads(event.data_json()),
    }
    raw = raw_events(json.dumps(body).encode(), {"content-type": "application/cloudevents+json"})
    (refused,) = receive(raw, event.clinic_id, CATALOG).refused
    assert str(2**63 - 1) in refused.refusal.detail


@pytest.mark.parametrize("name", [m.name for m in pkgutil.iter_modules(revisit_events.__path__)])
def test_examples_in_docstrings_hold(name: str) -> None:
    if name != "__main__":
        module = importlib.import_module(f"revisit_events.{name}")
        assert doctest.testmod(module).failed == 0


def test_ids_of_dead_letters_are_the_same_when_a_message_comes_again() -> None:
    raw = dlq.Raw("t", 0, 5, None, b"x", [("ce_id", b"1"), ("ce_source", b"/s")])
    assert dlq.dead_letter_id(raw) == dlq.dead_letter_id(replace(raw, offset=99))
    bare = replace(raw, headers=[])
    assert dlq.dead_letter_id(bare) != dlq.dead_letter_id(replace(bare, offset=6))
    assert isinstance(dlq.dead_letter_id(bare), uuid.UUID)
