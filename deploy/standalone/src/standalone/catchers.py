"""Catchers: an SMTP server and an SMS gateway that keep what would go to patients.

They stand in for the providers until real ones are configured. Both speak the real protocols, so the
platform cannot tell the difference. What is caught goes to two append-only files, a JSON line each, and
can be read at `/mailbox` and `/sms` (JSON with `?format=json`). They run as a process of their own.
"""

import asyncio
import email
import html
import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
import time
from contextlib import suppress
from email.message import EmailMessage
from email.policy import default as mail_policy
from pathlib import Path
from typing import IO, Any

from aiosmtpd.smtp import SMTP, Envelope, Session
from revisit_chassis.health import QuietServer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
import uvicorn

from standalone.postgres import free_port

START_TIMEOUT_SECONDS = 30
SHOWN = 200
LINK = re.compile(r"https?://[^\s\"'<>]+")

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:44rem;padding:1rem}}
article{{border-top:1px solid #ccc;padding:1rem 0}}pre{{white-space:pre-wrap;font:inherit;margin:.5rem 0}}
small{{color:#555}}</style><h1>{title}</h1><p><a href="mailbox">Mail</a> · <a href="sms">SMS</a></p>
<p>{count} caught; the newest first.</p>{items}</html>"""


class Box:
    """An append-only file of caught messages; the newest are kept in memory to be shown.

    Args:
        path: A JSON line each.
    """

    def __init__(self, path: Path) -> None:
        self._file: IO[str] = path.open("a+", encoding="utf-8")
        self._file.seek(0)
        self.count = 0
        self.newest: list[dict[str, Any]] = []
        for line in self._file:
            self._remember(json.loads(line))

    def add(self, message: dict[str, Any]) -> None:
        """Keeps a message."""
        self._file.write(json.dumps(message, ensure_ascii=False) + "\n")
        self._file.flush()
        self._remember(message)

    def _remember(self, message: dict[str, Any]) -> None:
        self.count += 1
        self.newest.append(message)
        if len(self.newest) > 2 * SHOWN:
            del self.newest[:-SHOWN]


class Catchers:
    """Both catchers over one folder.

    Args:
        folder: Takes the files.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.mails = Box(folder / "mails.jsonl")
        self.texts = Box(folder / "sms.jsonl")
        # Keys as eight bytes: a million of them must not weigh.
        self._keys = {hash(message["key"]) for message in self.texts.newest}

    async def handle_DATA(  # noqa: N802  (aiosmtpd's name)
        self,
        server: SMTP,  # noqa: ARG002
        session: Session,  # noqa: ARG002
        envelope: Envelope,
    ) -> str:
        """Keeps a mail."""
        content = envelope.content
        parsed = email.message_from_bytes(
            content if isinstance(content, bytes) else str(content).encode(), policy=mail_policy
        )
        text = _plain_text(parsed) if isinstance(parsed, EmailMessage) else ""
        for recipient in envelope.rcpt_tos:
            self.mails.add(
                {
                    "to": recipient,
                    "from": str(parsed["From"]),
                    "subject": str(parsed["Subject"]),
                    "message_id": str(parsed["Message-ID"]),
                    "unsubscribe": str(parsed["List-Unsubscribe"] or ""),
                    "text": text,
                    "links": LINK.findall(text),
                }
            )
        return "250 OK"

    async def take_sms(self, request: Request) -> Response:
        """Takes an SMS by the gateway contract; a repeated key changes nothing."""
        body = await request.json()
        key = request.headers.get("idempotency-key") or body["id"]
        if hash(key) not in self._keys:
            self._keys.add(hash(key))
            self.texts.add(
                {
                    "to": body["to"],
                    "text": body["text"],
                    "sender": body.get("sender"),
                    "key": key,
                    "links": LINK.findall(body["text"]),
                }
            )
        return JSONResponse({"provider_id": f"caught-{key}", "status": "accepted"})

    async def show(self, request: Request) -> Response:
        """Shows the newest messages of a box."""
        is_mail = request.url.path.endswith("mailbox")
        box = self.mails if is_mail else self.texts
        wanted = request.query_params.get("to")
        newest = [m for m in reversed(box.newest) if wanted in {None, m["to"]}][:SHOWN]
        if request.query_params.get("format") == "json":
            return JSONResponse({"count": box.count, "items": newest})
        return HTMLResponse(
            PAGE.format(
                title="Mailbox" if is_mail else "SMS",
                count=box.count,
                items="".join(map(_as_html, newest)),
            )
        )

    def app(self) -> Starlette:
        """Gives the HTTP side."""
        return Starlette(
            routes=[
                Route("/sms", self.take_sms, methods=["POST"]),
                Route("/sms", self.show),
                Route("/mailbox", self.show),
                Route("/", self.show),
            ]
        )


def run(host: str, smtp_port: int, http_port: int, folder: Path) -> None:
    """Serves both until SIGTERM.

    Args:
        host: To listen on.
        smtp_port: Of the mail server.
        http_port: Of the gateway and the pages.
        folder: Takes what is caught.
    """
    catchers = Catchers(folder)

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        smtp = await loop.create_server(
            lambda: SMTP(catchers, enable_SMTPUTF8=True, ident="catcher"), host, smtp_port
        )
        server = QuietServer(
            uvicorn.Config(
                catchers.app(), host=host, port=http_port, access_log=False, log_level="warning"
            )
        )

        def stop() -> None:
            server.should_exit = True

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        await server.serve()
        smtp.close()

    asyncio.run(serve())


class CatcherProcess:
    """The catchers as a child process on free ports of the loopback interface.

    Args:
        folder: Takes what is caught.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._smtp_port = free_port()
        self._http_port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def smtp_url(self) -> str:
        """Value for ENGAGEMENT_SMTP_URL."""
        return f"smtp://127.0.0.1:{self._smtp_port}"

    @property
    def sms_url(self) -> str:
        """Value for ENGAGEMENT_SMS_URL."""
        return f"http://127.0.0.1:{self._http_port}/sms"

    @property
    def mailbox_url(self) -> str:
        """Where a person reads the mails."""
        return f"http://127.0.0.1:{self._http_port}/mailbox"

    def start(self) -> None:
        """Starts them and waits until they answer."""
        self._process = subprocess.Popen(  # noqa: S603  (our own module)
            [
                *(sys.executable, "-m", "standalone", "catchers"),
                *("--smtp-port", str(self._smtp_port), "--http-port", str(self._http_port)),
                *("--folder", str(self._folder)),
            ],
            start_new_session=True,
        )
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while True:
            with suppress(urllib.error.URLError, OSError):
                with urllib.request.urlopen(self.mailbox_url, timeout=2):  # noqa: S310
                    return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the catchers did not start")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stops them."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=15)


def _plain_text(message: EmailMessage) -> str:
    part = message.get_body(("plain",))
    return "" if part is None else str(part.get_content())


def _as_html(message: dict[str, Any]) -> str:
    text = LINK.sub(
        lambda found: f'<a href="{found.group(0)}">{found.group(0)}</a>',
        html.escape(message["text"], quote=False),
    )
    subject = html.escape(message.get("subject", ""))
    return (
        f"<article><small>{html.escape(message['to'])}</small>"
        f"{f'<h2>{subject}</h2>' if subject else ''}<pre>{text}</pre></article>"
    )
