"""A letter as bytes: headers and a text and an HTML part, both base64.

Written out by hand because the standard library's `EmailMessage` costs 1 ms a letter, several times
what handing it to a server does. Base64 lines begin with no dot and are short, so the bytes go out
unchanged.
"""

import base64
from email.header import Header
from email.utils import format_datetime
from functools import lru_cache

from engagement.channels.domain import Outgoing

_PARTS = (("plain", "text"), ("html", "html"))


def letter_bytes(outgoing: Outgoing, sender: str) -> bytes:
    """The letter with CRLF line ends.

    Args:
        outgoing: What is sent; its id makes the Message-ID, so that a repeat is recognisable.
        sender: The address in `From`.
    """
    content, unsubscribe = outgoing.content, outgoing.preferences_url
    boundary = f"part-{outgoing.message_id.hex}"
    lines = [
        f"From: {_encoded(outgoing.sender_name)} <{sender}>",
        f"To: <{outgoing.to}>",
        f"Subject: {_encoded(content.subject or '')}",
        f"Date: {format_datetime(outgoing.at)}",
        f"Message-ID: {message_id_header(outgoing, sender)}",
        f"List-Unsubscribe: <{unsubscribe}>",
        "List-Unsubscribe-Post: List-Unsubscribe=One-Click",
        "Auto-Submitted: auto-generated",
        "MIME-Version: 1.0",
        f'Content-Type: multipart/alternative; boundary="{boundary}"',
        "",
    ]
    for subtype, attribute in _PARTS:
        text: str = getattr(content, attribute) or ""
        lines += [
            f"--{boundary}",
            f'Content-Type: text/{subtype}; charset="utf-8"',
            "Content-Transfer-Encoding: base64",
            "",
            base64.encodebytes(text.encode()).decode("ascii").rstrip("\n").replace("\n", "\r\n"),
        ]
    lines += [f"--{boundary}--", ""]
    return "\r\n".join(lines).encode("ascii")


def message_id_header(outgoing: Outgoing, sender: str) -> str:
    """The Message-ID of a message: the same however often it is written."""
    return f"<{outgoing.message_id}@{sender.rpartition('@')[2]}>"


@lru_cache(maxsize=1024)
def _encoded(text: str) -> str:
    """A header's text as RFC 2047 words, folded; never more than one header."""
    return Header(" ".join(text.split()), "utf-8").encode(linesep="\r\n")
