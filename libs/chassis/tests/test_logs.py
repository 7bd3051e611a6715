"""Nothing that names a person reaches a log line, whoever writes it."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product

import pytest
import structlog

from revisit_chassis.logs import (
    _SECRETS,
    _SUSPECT,
    REDACTED,
    configure_logging,
    redact_text,
)

FAMILY = "Щербакова"


@contextmanager
def configured() -> Iterator[None]:
    before = logging.getLogger().handlers[:]
    configure_logging("things")
    structlog.configure(cache_logger_on_first_use=False)
    try:
        yield
    finally:
        structlog.contextvars.clear_contextvars()
        structlog.reset_defaults()
        logging.getLogger().handlers[:] = before


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    "secret",
    [
        "anna@example.org",
        "+79161234567",
        "+7 916 123-45-67",
        "79161234567",
        "8 (916) 123-45-67",
        "8 916 123 45 67",
        "/s/0OqDnG3mZz8Yd7yq1l6c_g",
        "/booking/a/0OqDnG3mZz8Yd7yq1l6c_g?lang=ru",
        "Bearer eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJvbGdhIn0.c2lnbmF0dXJl",
    ],
)
def test_secret_in_a_text_is_redacted(secret: str) -> None:
    assert REDACTED in redact_text(f"failed: {secret} (again)")
    for word in ("anna", "123", "0OqDnG", "eyJ"):
        assert word not in redact_text(f"failed: {secret} (again)")


PIECES = (
    *("anna", "example", "79161234567", "916", "123-45-67", "123 4567", "8", "@example.org"),
    *("eyJhbGci", "0OqDnG3mZz8Yd7yq1l6c_g", *" ()+-@/.:"),
)


def test_quick_look_misses_no_secret() -> None:
    texts = ("".join(pieces) for n in range(1, 5) for pieces in product(PIECES, repeat=n))
    assert [text for text in texts if _SECRETS.search(text) and not _SUSPECT.search(text)] == []


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-15T12:30:00.123456Z",
        "2026-01-15 12:30:00",
        "7c1f0a52-6a1e-4d57-9a53-0f6a1c7c2b10",
        "/v1/things/7c1f0a52-6a1e-4d57-9a53-012345678901/parts",
        "11111111-2222-4333-8444-555555555555",
        "/v1/rejected-events/{rejected_event_id}/replays",
    ],
)
def test_what_names_nobody_is_left_alone(text: str) -> None:
    assert redact_text(text) == text


def test_values_under_forbidden_keys_are_redacted_at_any_depth(
    capsys: pytest.CaptureFixture[str],
) -> None:
    nested = {"given": "Анна", "list": [{"phone": "1"}, "write to anna@example.org"]}
    with configured():
        structlog.get_logger().info("thing.done", family=FAMILY, nested=nested, city="Казань")
    out = capsys.readouterr().out
    assert FAMILY not in out
    assert "Анна" not in out
    assert "anna@" not in out
    # Cyrillic is written as it is: a search for a name in the logs finds it or proves it absent.
    assert "Казань" in out


@pytest.mark.parametrize("key", ["exception", "method", "service", "level"])
def test_value_under_a_key_of_the_logs_own_is_redacted_if_it_is_no_text(
    capsys: pytest.CaptureFixture[str], key: str
) -> None:
    with configured():
        structlog.get_logger().info(
            "thing.done", **{key: {"about": ("write to anna@example.org",)}}
        )
    assert "anna@" not in capsys.readouterr().out


def test_exception_is_logged_by_type_and_frames_without_its_text(
    capsys: pytest.CaptureFixture[str],
) -> None:
    try:
        try:
            raise ValueError(FAMILY)  # noqa: TRY301
        except ValueError as cause:
            raise RuntimeError(f"{FAMILY} again") from cause
    except RuntimeError as error:
        with configured():
            structlog.get_logger().error("thing.failed", exc_info=error)
            logging.getLogger("driver").exception("a driver failed")
    ours, foreign = lines(capsys)
    for line in (ours, foreign):
        assert FAMILY not in json.dumps(line, ensure_ascii=False)
        assert "RuntimeError" in str(line["exception"])
        assert "ValueError" in str(line["exception"])
        assert "test_logs.py" in str(line["exception"])
    assert foreign["logger"] == "driver"
    assert foreign["service"] == "things"


def test_standard_loggers_are_redacted_with_their_arguments(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with configured():
        logging.getLogger("smtplib").error("cannot send to %s", "anna@example.org")
        logging.getLogger("asyncio").error(
            "Task exception was never retrieved\nfuture: <Task exception=ValueError('%s')>", FAMILY
        )
    out = capsys.readouterr().out
    assert "cannot send to [redacted]" in out
    assert FAMILY not in out


def test_half_a_surrogate_pair_is_written_and_breaks_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with configured():
        structlog.get_logger().info("thing.done", odd="\ud83d")
    assert "thing.done" in capsys.readouterr().out
