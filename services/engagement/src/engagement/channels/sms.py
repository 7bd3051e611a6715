"""Text messages over the generic gateway contract.

Each call carries the message id as `Idempotency-Key`: whatever happened to an earlier call, asking
again with the same key and the same body cannot deliver twice. So nothing here is ever `uncertain`:
what is not surely taken and not surely refused is asked again.
"""

import asyncio
import json
import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
import structlog

from engagement.channels.domain import Outgoing, is_phone
from engagement.messages.domain import Outcome, SendResult

_SERVER_ERROR = 500
_UNAVAILABLE = 503
_CONFLICT = 409
# What only the message itself can be guilty of. Everything else is the gateway's trouble or ours.
_MESSAGE_REFUSED = frozenset({400, 410, 413, 422})
# Our credentials, our credit or our address is wrong: nothing leaves until a person mends it.
_OUR_FAULT = frozenset({401, 402, 403, 404, 405})
_TAKEN = frozenset({"accepted", "queued", "sent", "delivered"})
_REFUSED = frozenset({"failed", "rejected"})
_LONGEST_PROVIDER_ID = 200

log = structlog.get_logger()


class SmsChannel:
    """Hands text messages to a gateway.

    Args:
        url: Where they are posted.
        sender: Name or number shown to the patient; registered with the gateway.
        places: Calls side by side that it is made for.
        timeout_seconds: Longest wait at each step; a whole call may take twice that.
        transport: What carries the calls; the network when left out.
    """

    def __init__(
        self,
        url: str,
        sender: str,
        *,
        places: int = 32,
        timeout_seconds: float = 20.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.places = places
        self._url = url
        self._call_seconds = 2 * timeout_seconds
        self._sender = sender
        self._client = httpx.AsyncClient(
            timeout=timeout_seconds,
            limits=httpx.Limits(max_connections=places, max_keepalive_connections=places),
            trust_env=False,
            transport=transport,
        )

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
            # httpx bounds each step; a gateway that dribbles could outlast the sender's lease.
            async with asyncio.timeout(self._call_seconds):
                answer = await self._client.post(
                    self._url,
                    content=json.dumps(body, ensure_ascii=False).encode(),
                    headers={"Content-Type": "application/json", "Idempotency-Key": key},
                )
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout):
            return SendResult(Outcome.RETRY, "sms_unavailable")
        except (httpx.HTTPError, TimeoutError):
            return SendResult(Outcome.RETRY, "sms_no_answer", may_have_arrived=True)
        return _result(answer)

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()


def _result(answer: httpx.Response) -> SendResult:
    code = answer.status_code
    if answer.is_success:
        return _result_of_body(answer)
    if code in _MESSAGE_REFUSED:
        return SendResult(Outcome.REJECTED, f"http_{code}")
    if code in _OUR_FAULT:
        log.error("sms.gateway_refuses_us", status=code)
    return SendResult(
        Outcome.RETRY,
        f"http_{code}",
        retry_after_seconds=_retry_after_seconds(answer.headers.get("Retry-After")),
        # 409: an earlier call under this key is still being worked on.
        may_have_arrived=code == _CONFLICT or (code >= _SERVER_ERROR and code != _UNAVAILABLE),
    )


def _result_of_body(answer: httpx.Response) -> SendResult:
    """By the contract's words alone: an answer that says something else has not said "taken"."""
    try:
        said = answer.json()
    except ValueError:
        said = None
    fields = said if isinstance(said, dict) else {}
    status = fields.get("status")
    word = status.lower() if isinstance(status, str) else ""
    provider_id = _provider_id(fields.get("provider_id"))
    if word in _TAKEN:
        return SendResult(Outcome.SENT, f"gateway_{word}", provider_id)
    if word in _REFUSED:
        return SendResult(Outcome.REJECTED, f"gateway_{word}", provider_id)
    return SendResult(
        Outcome.RETRY, "gateway_unclear", provider_id=provider_id, may_have_arrived=True
    )


def _provider_id(value: object) -> str | None:
    """A gateway's id as text fit to be stored; some count, some say anything."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    text = "".join(one for one in str(value) if one.isprintable())
    return text[:_LONGEST_PROVIDER_ID] or None


def _retry_after_seconds(value: str | None) -> float | None:
    """The wish in seconds; RFC 9110 allows a number or a date."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return seconds if math.isfinite(seconds) else None
