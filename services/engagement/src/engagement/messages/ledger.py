"""The gate's decision as it is stored with a message and served by the API."""

import json
from datetime import datetime
from typing import Any

from engagement.messages.gate import Check, Decision


def decision_json(decision: Decision, at: datetime) -> str:
    """A decision as JSON: verdict, reason, channel, moment and every check."""
    document: dict[str, Any] = {
        "verdict": decision.verdict,
        "reason": decision.reason,
        "channel": decision.channel,
        "at": at.isoformat(),
        "checks": [_check(check) for check in decision.checks],
    }
    return json.dumps(document, ensure_ascii=False)


def _check(check: Check) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": check.name,
        "verdict": check.verdict,
        "detail": check.detail,
    }
    if check.reason is not None:
        document["reason"] = check.reason
    if check.until is not None:
        document["until"] = check.until.isoformat()
    return document
