"""The catchers over real SMTP and HTTP, and what they keep across a restart."""

import smtplib
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import httpx
import pytest

from standalone.catchers import CatcherProcess, Catchers
from standalone.caught import SHOWN, Box, mail_of

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def catchers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CatcherProcess]:
    process = CatcherProcess(tmp_path_factory.mktemp("caught"))
    process.start()
    yield process
    process.stop()


def letter(to: str, text: str, subject: str = "Ждём вас 15 января, 15:30") -> EmailMessage:
    mail = EmailMessage()
    mail["From"] = "Клиника <care@example.org>"
    mail["To"] = to
    mail["Subject"] = subject
    mail["Message-ID"] = "<m-1@example.org>"
    mail.set_content(text)
    mail.add_alternative(f"<p>{text}</p>", subtype="html")
    return mail


def send(catchers: CatcherProcess, *mails: EmailMessage) -> None:
    host, port = catchers.smtp_url.removeprefix("smtp://").split(":")
    with smtplib.SMTP(host, int(port), timeout=10) as smtp:
        for mail in mails:
            smtp.send_message(mail)


def post_sms(catchers: CatcherProcess, key: str, text: str) -> tuple[int, Any]:
    body = {"id": key, "to": "+99900000001", "text": text, "sender": "Clinic"}
    answer = httpx.post(catchers.sms_url, json=body, headers={"Idempotency-Key": key})
    return answer.status_code, answer.json()


def read(url: str) -> Any:
    answer = httpx.get(url)
    return answer.json() if "json" in answer.headers["Content-Type"] else answer.text


def test_mail_over_smtp_is_shown_with_its_subject_text_and_links(catchers: CatcherProcess) -> None:
    text = "Здравствуйте, Анна!\nhttp://127.0.0.1:1/feedback/s/abc_DEF-1\nДо встречи"
    send(catchers, letter("anna@example.org", text))
    shown = read(f"{catchers.mailbox_url}?format=json&to=anna@example.org")["items"]
    assert [mail["subject"] for mail in shown] == ["Ждём вас 15 января, 15:30"]
    assert shown[0]["text"].strip().splitlines() == text.splitlines()
    assert shown[0]["links"] == ["http://127.0.0.1:1/feedback/s/abc_DEF-1"]
    page = read(catchers.mailbox_url)
    assert '<a href="http://127.0.0.1:1/feedback/s/abc_DEF-1">' in page


def test_page_escapes_what_a_mail_says(catchers: CatcherProcess) -> None:
    send(catchers, letter("eve@example.org", "<script>alert(1)</script>", "<b>hello</b>"))
    page = read(f"{catchers.mailbox_url}?to=eve@example.org")
    assert "<script>" not in page
    assert "<b>" not in page


def test_repeated_idempotency_key_is_stored_once_and_answered_the_same(
    catchers: CatcherProcess,
) -> None:
    answers = [post_sms(catchers, "key-1", "see you") for _ in range(3)]
    assert answers == [(200, {"provider_id": "caught-key-1", "status": "accepted"})] * 3
    items = read(f"{catchers.sms_url}?format=json")["items"]
    assert [item["key"] for item in items].count("key-1") == 1


def test_malformed_sms_is_refused(catchers: CatcherProcess) -> None:
    assert httpx.post(catchers.sms_url, content=b"[1]").status_code == 400


def test_all_mails_are_read_page_by_page_in_order(catchers: CatcherProcess) -> None:
    send(catchers, *(letter("many@example.org", f"number {n}") for n in range(30)))
    texts, position = [], 0
    while True:
        page = read(f"{catchers.mailbox_url}?format=json&position={position}&limit=7")
        texts += [mail["text"].strip() for mail in page["items"]]
        if page["next"] == position:
            break
        position = page["next"]
    assert [text for text in texts if text.startswith("number")] == [
        f"number {n}" for n in range(30)
    ]
    assert len(texts) == page["count"]


def test_keys_are_known_after_a_restart(tmp_path: Path) -> None:
    process = CatcherProcess(tmp_path)
    process.start()
    post_sms(process, "key-2", "see you")
    process.stop()
    again = CatcherProcess(tmp_path)
    again.start()
    try:
        post_sms(again, "key-2", "see you")
        assert read(f"{again.sms_url}?format=json")["count"] == 1
    finally:
        again.stop()


def test_key_of_a_message_stored_just_before_a_kill_is_taken(tmp_path: Path) -> None:
    box = Box(tmp_path / "sms.jsonl")
    box.add({"to": "+99900000001", "text": "", "key": "key-3"})
    box.close()
    catchers = Catchers(tmp_path)
    assert catchers._keys.is_taken("key-3")
    catchers.close()


def test_line_torn_by_a_kill_is_dropped(tmp_path: Path) -> None:
    box = Box(tmp_path / "box")
    box.add({"to": "a", "text": "whole"})
    box.close()
    with (tmp_path / "box").open("ab") as file:
        file.write(b'{"to": "b", "te')
    box = Box(tmp_path / "box")
    box.add({"to": "c", "text": "after"})
    assert [message["to"] for message in box.newest()] == ["c", "a"]
    assert box.count == 2
    box.close()


def test_memory_of_a_box_does_not_grow_with_its_messages(tmp_path: Path) -> None:
    box = Box(tmp_path / "box")
    for number in range(3 * SHOWN):
        box.add({"to": str(number), "text": ""})
    assert len(box.newest()) == SHOWN
    assert len(box._newest) == SHOWN
    assert [message["to"] for message in box.found("7")] == ["7"]
    box.close()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"Subject: =?x?q?=41?=\r\n\r\nhello"])
def test_any_bytes_make_a_readable_mail(content: bytes) -> None:
    assert isinstance(mail_of(content)["text"], str)
