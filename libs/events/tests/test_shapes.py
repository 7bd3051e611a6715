"""The quick reader of contracts takes what the careful one takes, and nothing else."""

import inspect
import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from revisit_events import kafka, testing
from revisit_events.catalog import PUBLISHED, upcast
from revisit_events.contracts import EventData
from revisit_events.contracts.fields import read_special
from revisit_events.digest import body_digest
from revisit_events.envelope import new_event
from revisit_events.shapes import encode, names_of, read, read_json, shape_of

NOON = testing.NOON
SURROGATE = "\ud800"
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 5, 6, 2**31, 10**12, 10**12 + 1, 2**63, 10**400),
    *(0.0, 1.0, 0.5, -0.5, 1e300, float("inf"), float("nan"), "", " ", "x", "x" * 100, "x" * 101),
    *(
        "x" * 10_001,
        "\U0001f600" * 100,
        "\U0001f600" * 101,
        "a\0b",
        SURROGATE,
        "RUB",
        "rub",
        "RUB\n",
    ),
    *(
        "RU",
        "ru",
        "ru-RU",
        "ru_RU",
        "x" * 36,
        "Europe/Moscow",
        "Europe/Moscow\n",
        "self",
        "service",
    ),
    *("patient", "treated", "csat", "confirm", "worked", "in_person", "complaint", "1984", "true"),
    *(str(uuid4()), str(uuid4()).upper(), uuid4().hex, f"{{{uuid4()}}}", f"urn:uuid:{uuid4()}"),
    *("2026-07-15", "2026-7-15", "1899-12-31", "1900-01-01", "2199-12-31", "2200-01-01"),
    *(
        "2026-01-15T13:12:00Z",
        "2026-01-15t13:12:00z",
        "2026-01-15 13:12:00Z",
        "2026-01-15T13:12:00",
    ),
    *("2026-01-15T13:12:00+03:00", "2026-01-15T13:12:00+0300", "2026-01-15T13:12:00+03"),
    *("2026-01-15T13:12:00.5Z", "2026-01-15T13:12:00.123456Z", "2026-01-15T13:12:00.1234567Z"),
    *("2026-01-15T13:12:00.99999999999Z", "2026-01-15T13:12:00.123456+03:00"),
    *("2026-01-15T13:12:00.123Z", "2026-01-15T13:12:00.123+03:00", "2026-01-15T13:12:00.12345678Z"),
    *("2026-01-15T13:12:00.12+0300", "2026-01-15T13:12:00.1234567+0300", "2026-01-15T13:12:60Z"),
    *("1899-12-31T23:30:00-01:00", "1900-01-01T00:30:00+01:00", "2199-12-31T23:30:00-01:00"),
    *("0001-01-01T00:00:00+03:00", "9999-12-31T23:59:59-03:00", "2026-01-15T24:00:00Z"),
    *([], ["x"], [1], ["x", None], ["a\0b"], {}, {"reason": "x"}, {"reason": ""}, {"channel": "x"}),
    *({"key_id": "k", "ciphertext": "c"}, {"key_id": "k"}, {"reason": "x", "urgency": "a\0b"}),
    *(NOON, NOON.replace(tzinfo=None), NOON.astimezone(timezone(timedelta(hours=3))), uuid4()),
)


def as_given(event_type: str) -> dict[str, Any]:
    given: dict[str, Any] = json.loads(testing.BUILDERS[event_type]().data_json())
    return given


def by_shape(contract: type[EventData], given: dict[str, Any]) -> bytes | None:
    try:
        shaped = shape_of(contract).model_validate(given)
    except (ValidationError, UnicodeEncodeError):
        return None
    told = shaped.model_dump(by_alias=True, exclude_none=True)
    return encode(msgspec.convert(told, contract, dec_hook=read_special))


def quickly(contract: type[EventData], given: dict[str, Any]) -> bytes | None:
    try:
        return read(contract, given)[1]
    except (ValidationError, UnicodeEncodeError):
        return None


@pytest.mark.parametrize("event_type", sorted(PUBLISHED))
def test_both_readers_agree_on_each_odd_value_of_each_field(event_type: str) -> None:
    contract = PUBLISHED[event_type]
    usual = as_given(event_type)
    assert quickly(contract, usual) == by_shape(contract, usual) == encode(read(contract, usual)[0])
    for name in sorted(names_of(contract)):
        for odd in ODD:
            given = {**usual, name: odd}
            assert quickly(contract, given) == by_shape(contract, given), (name, odd)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(ODD[:60]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)


@given(st.data())
def test_both_readers_agree_on_anything(data: st.DataObject) -> None:
    event_type = data.draw(st.sampled_from(sorted(PUBLISHED)))
    contract = PUBLISHED[event_type]
    names = st.sampled_from([*sorted(names_of(contract)), "unknown"])
    changed = data.draw(st.dictionaries(names, values, max_size=3))
    left_out = data.draw(st.sets(names, max_size=1))
    told = {**as_given(event_type), **changed}
    given = {name: value for name, value in told.items() if name not in left_out}
    assert quickly(contract, given) == by_shape(contract, given)


@pytest.mark.parametrize("event_type", sorted(PUBLISHED))
def test_what_is_written_is_read_again_from_a_topic(event_type: str) -> None:
    contract = PUBLISHED[event_type]
    data, encoded = read(contract, as_given(event_type))
    assert read_json(contract, encoded) == data


@pytest.mark.parametrize("text", ["\\u0000", "\\ud800", "[" * 5_000, "\xff"])
def test_what_no_reader_takes_is_explained_and_breaks_nothing(text: str) -> None:
    usual = as_given("review.posted.v1")
    body = json.dumps({**usual, "unknown": 0, "platform": "?"}, ensure_ascii=False)
    value = body.replace("?", text).replace('"unknown": 0', f'"unknown": {"[" * 5_000}')
    for spoilt in (body.replace("?", text).encode("latin-1"), value.encode("latin-1")):
        if spoilt != body.encode():
            with pytest.raises(ValidationError):
                read_json(PUBLISHED["review.posted.v1"], spoilt)


@pytest.mark.parametrize("spoilt", [b'"zz":"\xff"', b'"\xff":0', b'"zz":"\xed\xa0\x80"'])
def test_what_is_no_utf8_in_a_field_nobody_knows_spoils_an_event(spoilt: bytes) -> None:
    value = testing.visit_completed().data_json().replace(b"{", b"{" + spoilt + b",", 1)
    with pytest.raises(ValidationError):
        read_json(PUBLISHED["visit.completed.v1"], value)


@pytest.mark.parametrize("odd", [b"NaN", b"-Infinity", b'"a\\u0000b"'])
def test_what_no_database_keeps_is_left_out_of_what_is_kept(odd: bytes) -> None:
    event = testing.visit_completed()
    value = event.data_json().replace(b"{", b'{"zz":' + odd + b",", 1)
    headers = [(f"ce_{name}", text.encode()) for name, text in kafka.attributes(event).items()]
    assert kafka.decode(event.topic, value, headers).data_json() == event.data_json()


def test_time_without_a_zone_is_none() -> None:
    with pytest.raises(ValueError, match="completed_at"):
        msgspec.structs.replace(testing.visit_completed().data, completed_at=datetime(2026, 1, 1))  # noqa: DTZ001


def test_own_event_is_what_its_readers_will_have() -> None:
    old = testing.survey_answered_v1(kind="nps", score=9)
    data = msgspec.structs.replace(upcast(old.data), score=9, answer_id=uuid4())
    event = new_event(data, source="/feedback", clinic_id=old.clinic_id, time=old.time)
    assert b'"score":9.0,"scale_min":0.0,"scale_max":10.0' in event.data_json()
    again = replace(event, data=read_json(type(data), event.data_json()), _encoded=None)
    assert (again.data, again.data_json()) == (event.data, event.data_json())
    assert body_digest(again) == body_digest(event)


def test_shape_needs_no_source_to_explain(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: object) -> str:
        raise OSError

    monkeypatch.setattr(inspect, "getsource", absent)
    contract = PUBLISHED["visit.completed.v1"]
    bare = shape_of.__wrapped__(contract)
    assert bare.model_fields.keys() == shape_of(contract).model_fields.keys()


def test_nothing_is_published_that_its_readers_would_refuse() -> None:
    event = testing.review_posted()
    wrongs: tuple[dict[str, Any], ...] = (
        *({"rating_1_to_5": 6}, {"platform": ""}, {"platform": "a\0b"}, {"platform": SURROGATE}),
        *({"topics": ("",)}, {"patient_id": "P-1"}),
    )
    for wrong in wrongs:
        data = msgspec.structs.replace(event.data, **wrong)
        with pytest.raises(ValueError):  # noqa: PT011  # two libraries' own kinds of it
            new_event(data, source="/feedback", clinic_id=event.clinic_id, time=event.time)
