"""What the catchers keep: append-only files of JSON lines, read by position, and mails as texts.

Memory stays flat however much is caught: only the newest messages are held, and the idempotency keys
of text messages live in an index on disk. The invariant: a message is in its file before the sender
is told that it was taken, and a key is taken once, also across a restart.
"""

import email
import json
import re
import sqlite3
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.header import decode_header, make_header
from email.message import Message
from pathlib import Path

SHOWN = 200
PAGE_BYTES = 1024 * 1024
LINK = re.compile(r"https?://[^\s\"'<>]+")

Caught = Mapping[str, object]
"""A message as it was caught: `to`, `text`, `links`; a mail has more of it."""


@dataclass(frozen=True, slots=True)
class BoxPage:
    """Messages from a position on, a JSON line each, and the position to go on from."""

    lines: list[bytes]
    next_position: int


class Box:
    """An append-only file of caught messages, a JSON line each.

    Args:
        path: The file; made when it is missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("a+b", buffering=0)
        self.count = 0
        self.size_bytes = 0
        self._newest: deque[bytes] = deque(maxlen=SHOWN)
        with path.open("rb") as kept:
            for line in kept:
                if line.endswith(b"\n"):
                    self._remember(line)
        # A kill in the middle of a write: the sender of that line was never told that it was taken.
        self._file.truncate(self.size_bytes)

    def add(self, message: Caught) -> None:
        """Keeps a message; it is in the file when this returns.

        Args:
            message: Must have `to`.
        """
        line = json.dumps(message, ensure_ascii=False).encode() + b"\n"
        self._file.write(line)
        self._remember(line)

    def newest(self) -> list[Caught]:
        """The newest messages, the newest first."""
        return [json.loads(line) for line in reversed(self._newest)]

    def found(self, to: str) -> list[Caught]:
        """The newest messages to one address, the newest first; reads the whole file.

        Args:
            to: Address or phone.
        """
        wanted = json.dumps(to, ensure_ascii=False).encode()
        hits: deque[bytes] = deque(maxlen=SHOWN)
        with self._path.open("rb") as file:
            hits.extend(line for line in file if wanted in line and line.endswith(b"\n"))
        messages = (json.loads(line) for line in reversed(hits))
        return [message for message in messages if message["to"] == to]

    def page(self, position: int, limit: int) -> BoxPage:
        """Messages from a position on, at most about a mebibyte of them.

        Args:
            position: 0, or the `next_position` of an earlier page.
            limit: Most messages.
        """
        with self._path.open("rb") as file:
            file.seek(position)
            block = file.read(min(PAGE_BYTES, max(self.size_bytes - position, 0)))
            if block and b"\n" not in block:
                block += file.readline()
        lines = block[: block.rfind(b"\n") + 1].splitlines(keepends=True)[:limit]
        return BoxPage(
            [line.rstrip(b"\n") for line in lines], position + sum(len(line) for line in lines)
        )

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _remember(self, line: bytes) -> None:
        self.count += 1
        self.size_bytes += len(line)
        self._newest.append(line)


class Keys:
    """Idempotency keys that were taken, on disk.

    Args:
        path: Of the index; made when it is missing.
    """

    def __init__(self, path: Path) -> None:
        self._index = sqlite3.connect(path, isolation_level=None)
        # A killed process loses nothing this way; a machine that loses power may, and the keys of the
        # newest messages are taken again from their file.
        self._index.execute("PRAGMA journal_mode = WAL")
        self._index.execute("PRAGMA synchronous = OFF")
        self._index.execute("CREATE TABLE IF NOT EXISTS taken (key TEXT PRIMARY KEY) WITHOUT ROWID")

    def is_taken(self, key: str) -> bool:
        """Whether a key was taken before.

        Args:
            key: Of a request.
        """
        found = self._index.execute("SELECT 1 FROM taken WHERE key = ?", (key,)).fetchone()
        return found is not None

    def take(self, key: str) -> None:
        """Takes a key; once more changes nothing.

        Args:
            key: Of a request.
        """
        self._index.execute("INSERT OR IGNORE INTO taken (key) VALUES (?)", (key,))

    def close(self) -> None:
        """Closes the index."""
        self._index.close()


def mail_of(content: bytes) -> dict[str, object]:
    """Gives what a person reads of a mail: headers, the plain text and its links.

    Args:
        content: The mail as it came.
    """
    # The older parser: a third of the time of the policy of today, and this is done for every mail.
    message = email.message_from_bytes(content)
    text = _plain_text(message)
    return {
        "from": _header(message, "From"),
        "subject": _header(message, "Subject"),
        "message_id": _header(message, "Message-ID"),
        "date": _header(message, "Date"),
        "unsubscribe": _header(message, "List-Unsubscribe"),
        "text": text,
        "links": LINK.findall(text),
    }


def _header(message: Message, name: str) -> str:
    value = str(message.get(name, ""))
    if "=?" not in value:
        return value
    try:
        return str(make_header(decode_header(value)))
    except (LookupError, ValueError):
        return value


def _plain_text(message: Message) -> str:
    for part in _parts(message):
        if part.get_content_type() == "text/plain":
            payload = part.get_payload(decode=True)
            if isinstance(payload, bytes):
                return _decoded(payload, part.get_content_charset() or "utf-8")
    return ""


def _parts(message: Message) -> Iterator[Message]:
    for part in message.walk():
        if not part.is_multipart():
            yield part


def _decoded(payload: bytes, charset: str) -> str:
    try:
        return payload.decode(charset, "replace")
    except LookupError:
        return payload.decode("utf-8", "replace")
