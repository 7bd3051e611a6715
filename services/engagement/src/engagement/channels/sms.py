"""Text messages over the generic gateway contract (design section 9).

Each call carries the message id as `Idempotency-Key`: whatever happened to an earlier call, asking
again with the same key and the same body cannot deliver twice. So nothing here is ever `uncertain`.
"""

import asyncio
import json
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from engagement.channels.domain import Outgoing, is_phone
from engagement.messages.domain import Outcome, SendResult

_OK = 200
_SERVER_ERROR = 500
_UNAVAILABLE = 503
# The gateway's troubles or ours, not the message's: asked again.
_PASSING = frozenset({401, 403, 404, 405, 408, 409, 425, 429})
_REFUSALS = frozenset({"rejected", "failed", "undeliverable"})


class SmsChannel:
    """Hands text messages to a gateway.

    Args:
        url: Where they are posted.
        sender: Name or number shown to the patient; registered with the gateway.
        connections: Most calls at a time.
        timeout_seconds: Longest wait for an answer.
    """

    def __init__(
        self, url: str, sender: str, *, connections: int = 32, timeout_seconds: float = 20.0
    ) -> None:
        self._url = url
        self._sender = sender
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        # The pool's own queue is searched at every answer: a hundred waiting calls cost five times one.
        self._places = asyncio.Semaphore(connections)
        self._client = httpx.AsyncClient(timeout=timeout_seconds, limits=limits, trust_env=False)

    async def send(self, outgoing: Outgoing) -> SendResult:
        """Hands one message in; never raises for what a gateway or a network does."""
        if not is_phone(outgoing.to):
            return SendResult(Outcome.REJECTED, "invalid_phone")
        key = str(outgoing.message_id)
        body = {
            "id": key,
            "to": outgoing.to,
            "text": outgoing.content.text,
            "sender": self._sender,
        }
        try:
            async with self._places:
                answer = await self._client.post(
                    self._url,
                    content=json.dumps(body, ensure_ascii=False).encode(),
                    headers={"Content-Type": "application/json", "Idempotency-Key": key},
                )
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout):
            return SendResult(Outcome.RETRY, "sms_unavailable")
        except httpx.HTTPError:
            return SendResult(Outcome.RETRY, "sms_no_answer", may_have_arrived=True)
        return _result(answer)

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()


def _result(answer: httpx.Response) -> SendResult:
    code = answer.status_code
    if code >= _SERVER_ERROR or code in _PASSING or code < _OK:
        wish = _retry_after_seconds(answer.headers.get("Retry-After"))
        return SendResult(
            Outcome.RETRY,
            f"http_{code}",
            retry_after_seconds=wish,
            may_have_arrived=code >= _SERVER_ERROR and code != _UNAVAILABLE,
        )
    if not answer.is_success:
        return SendResult(Outcome.REJECTED, f"http_{code}")
    try:
        said = answer.json()
        provider_id, status = said.get("provider_id"), said.get("status")
    except (ValueError, AttributeError):
        provider_id = status = None
    if status in _REFUSALS:
        return SendResult(Outcome.REJECTED, f"gateway_{status}", provider_id)
    return SendResult(Outcome.SENT, f"http_{code}", str(provider_id) if provider_id else None)


def _retry_after_seconds(value: str | None) -> float | None:
    """The wish in seconds; RFC 9110 allows a number or a date."""
    if value is None:
        return None
    try:
        return float(value)
    except ValueError:
        pass
    try:
        return (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):
        return None
