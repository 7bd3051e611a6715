"""Catchers: an SMTP server and an SMS gateway that keep what would go to patients.

They stand in for the providers until real ones are configured, and speak the real protocols, so the
platform cannot tell the difference. They run as one process of their own, on the second core. What is
caught can be read at `/mailbox` and `/sms`: a page for a person (`?to=` looks for one address), JSON
with `?format=json`, and all of it from the first message on with `&position=0`.
"""

import asyncio
import html
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import uvicorn
import uvloop
from aiosmtpd.smtp import SMTP, Envelope, Session
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from revisit_chassis.health import QuietServer
from standalone.caught import LINK, Box, Caught, Keys, mail_of
from standalone.children import Note, dies_with_parent
from standalone.postgres import free_port

START_TIMEOUT_SECONDS = 30
BIND_ATTEMPTS = 5
LONGEST_MAIL_BYTES = 4 * 1024 * 1024
LONGEST_PAGE = 1000

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:44rem;padding:1rem}}
article{{border-top:1px solid #ccc;padding:1rem 0}}pre{{white-space:pre-wrap;font:inherit;margin:.5rem 0}}
small{{color:#555}}h2{{font-size:1.1rem;margin:.2rem 0}}input{{font:inherit}}</style><h1>{title}</h1>
<p><a href="/mailbox">Mail</a> · <a href="/sms">SMS</a></p>
<form><label>To <input name="to" value="{to}"></label> <button>Find</button></form>
<p>{count} caught. The newest first, {shown} shown.</p>{items}</html>"""


class Catchers:
    """Both catchers over one folder.

    Args:
        folder: Takes the files.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.mails = Box(folder / "mails.jsonl")
        self.texts = Box(folder / "sms.jsonl")
        self._keys = Keys(folder / "sms-keys.sqlite")
        for message in self.texts.newest():
            # Killed between the message and its key, it must know the key all the same.
            self._keys.take(str(message["key"]))

    async def handle_DATA(  # noqa: N802  (aiosmtpd's name)
        self,
        server: SMTP,  # noqa: ARG002
        session: Session,  # noqa: ARG002
        envelope: Envelope,
    ) -> str:
        """Keeps a mail."""
        content = envelope.content
        mail = mail_of(content if isinstance(content, bytes) else str(content).encode())
        for recipient in envelope.rcpt_tos:
            self.mails.add({"to": recipient} | mail)
        return "250 OK"

    async def take_sms(self, request: Request) -> Response:
        """Takes an SMS by the gateway contract; a repeated key changes nothing."""
        try:
            body = await request.json()
            key = request.headers.get("idempotency-key") or str(body["id"])
            to, text = str(body["to"]), str(body["text"])
        except (ValueError, KeyError, TypeError):
            return JSONResponse({"error": "id, to and text are needed"}, 400)
        if not self._keys.is_taken(key):
            self.texts.add(
                {
                    "to": to,
                    "text": text,
                    "sender": body.get("sender"),
                    "key": key,
                    "links": LINK.findall(text),
                }
            )
            self._keys.take(key)
        return JSONResponse({"provider_id": f"caught-{key}", "status": "accepted"})

    async def show(self, request: Request) -> Response:
        """Shows messages of a box: the newest, those to one address, or all from a position on."""
        is_mail = not request.url.path.startswith("/sms")
        box = self.mails if is_mail else self.texts
        query = request.query_params
        is_json = query.get("format") == "json"
        if is_json and (position := query.get("position", "")).isdigit():
            limit = query.get("limit", "")
            return _page_response(box, int(position), int(limit) if limit.isdigit() else 500)
        to = query.get("to")
        messages = await asyncio.to_thread(box.found, to) if to else box.newest()
        if is_json:
            return JSONResponse({"count": box.count, "items": messages})
        return HTMLResponse(
            PAGE.format(
                title="Mailbox" if is_mail else "SMS",
                to=html.escape(to or ""),
                count=box.count,
                shown=len(messages),
                items="".join(map(_as_html, messages)),
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

    def close(self) -> None:
        """Closes the files."""
        self.mails.close()
        self.texts.close()
        self._keys.close()


def _page_response(box: Box, position: int, limit: int) -> Response:
    page = box.page(position, min(limit, LONGEST_PAGE))
    head = f'{{"count": {box.count}, "next": {page.next_position}, "items": ['.encode()
    return Response(head + b",".join(page.lines) + b"]}", media_type="application/json")


def run(host: str, smtp_port: int, http_port: int, folder: Path) -> None:
    """Serves both until SIGTERM.

    Args:
        host: To listen on.
        smtp_port: Of the mail server.
        http_port: Of the gateway and the pages.
        folder: Takes what is caught.
    """
    uvloop.run(_serve(host, smtp_port, http_port, folder))


async def _serve(host: str, smtp_port: int, http_port: int, folder: Path) -> None:
    catchers = Catchers(folder)
    loop = asyncio.get_running_loop()
    smtp = await loop.create_server(
        lambda: SMTP(
            catchers, enable_SMTPUTF8=True, ident="catcher", data_size_limit=LONGEST_MAIL_BYTES
        ),
        host,
        smtp_port,
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
    try:
        await server.serve()
    finally:
        smtp.close()
        catchers.close()


class CatcherProcess:
    """The catchers as a child process on free ports of the loopback interface.

    Args:
        folder: Takes what is caught.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._note = Note(folder.with_suffix(".pid"))
        self._smtp_port = 0
        self._http_port = 0
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
        """Starts them and waits until they answer.

        Raises:
            RuntimeError: They ended, or did not answer in time.
        """
        self._note.end_left_over()
        for _ in range(BIND_ATTEMPTS):
            # Between the choice of a port and its use, somebody else may have taken it.
            self._smtp_port, self._http_port = free_port(), free_port()
            if self._launch():
                return
        raise RuntimeError("the catchers did not start")

    def _launch(self) -> bool:
        """Starts the process; gives False when it ended instead of answering."""
        command = [
            *(sys.executable, "-m", "standalone", "catchers"),
            *("--smtp-port", str(self._smtp_port), "--http-port", str(self._http_port)),
            *("--folder", str(self._folder)),
        ]
        self._process = subprocess.Popen(  # noqa: S603  (our own module)
            command,
            # Ctrl-C is for the platform, which stops them when its last message is out.
            start_new_session=True,
            preexec_fn=dies_with_parent(signal.SIGTERM),  # noqa: PLW1509  (one prctl, no Python lock)
        )
        self._note.write(self._process, command)
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            if self._answers():
                return True
            time.sleep(0.05)
        self.stop()
        return False

    def _answers(self) -> bool:
        with (
            suppress(urllib.error.URLError, OSError),
            urllib.request.urlopen(self.mailbox_url, timeout=2),  # noqa: S310  (our own address)
        ):
            return True
        return False

    def stop(self) -> None:
        """Stops them."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
            self._note.forget()


def _as_html(message: Caught) -> str:
    text = LINK.sub(
        lambda found: f'<a href="{found.group(0)}">{found.group(0)}</a>',
        html.escape(str(message["text"]), quote=False),
    )
    heading = "".join(
        f"<h2>{html.escape(str(message[name]))}</h2>" for name in ("subject",) if name in message
    )
    facts: Sequence[object] = [message[name] for name in ("to", "date") if message.get(name)]
    small = html.escape(" · ".join(map(str, facts)))
    return f"<article><small>{small}</small>{heading}<pre>{text}</pre></article>"
