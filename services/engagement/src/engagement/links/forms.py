"""Fields of a small posted form, in either encoding. Pure."""

from email import message_from_bytes
from urllib.parse import parse_qsl

ONE_CLICK = "List-Unsubscribe"
"""The field that a mail client posts in its reader's name (RFC 8058)."""


def form_fields(content_type: str, body: bytes) -> dict[str, str]:
    """Fields by name, the first of each; what is no form has none.

    RFC 8058 names `multipart/form-data` first and `application/x-www-form-urlencoded` second.

    >>> form_fields("application/x-www-form-urlencoded", b"wanted=yes&wanted=no")
    {'wanted': 'yes'}
    """
    if content_type.lower().startswith("multipart/form-data"):
        found = _parts(content_type, body)
    else:
        found = parse_qsl(body.decode(errors="replace"), keep_blank_values=True)
    return dict(reversed(found))


def _parts(content_type: str, body: bytes) -> list[tuple[str, str]]:
    # A form in parts is a MIME message whose headers came by HTTP; the parser takes any bytes.
    head = f"Content-Type: {content_type}\r\n\r\n".encode("latin-1", "replace")
    message = message_from_bytes(head + body)
    if not message.is_multipart():
        return []
    found = []
    for part in message.walk():
        text = part.get_payload(decode=True)
        if isinstance(text, bytes):
            name = part.get_param("name", "", "content-disposition")
            found.append((str(name), text.decode(errors="replace").strip()))
    return found
