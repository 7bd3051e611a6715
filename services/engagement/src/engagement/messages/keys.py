"""The key ring of a process that runs for months: read again when a text needs a key it lacks.

A rotation adds a key to the file; what booking encrypts with it can reach a worker that started
before.
"""

import time
from collections.abc import Callable, Iterable

import structlog

from revisit_chassis.crypto import Keyring, UnreadableCiphertext

AGAIN_AFTER_SECONDS = 10.0

log = structlog.get_logger()


class Keys:
    """A key ring that grows with its file.

    Args:
        load: Reads the file.
        again_after_seconds: How long to go on with a key missing before the file is read again.
    """

    def __init__(
        self, load: Callable[[], Keyring], *, again_after_seconds: float = AGAIN_AFTER_SECONDS
    ) -> None:
        self._load = load
        self._ring = load()
        self._again_after_seconds = again_after_seconds
        self._not_before = float("-inf")

    def ring(self, ciphertexts: Iterable[bytes | None] = ()) -> Keyring:
        """Gives the ring; read anew first if it cannot open one of the texts.

        Args:
            ciphertexts: What is to be opened.
        """
        needed = {_key_id(one) for one in ciphertexts if one is not None} - {None}
        if needed <= self._ring.keys.keys() or time.monotonic() < self._not_before:
            return self._ring
        self._not_before = time.monotonic() + self._again_after_seconds
        try:
            self._ring = self._load()
        except (OSError, ValueError, KeyError) as error:
            log.warning("keyring.not_read", error=type(error).__name__)
        if missing := sorted(one for one in needed if one and one not in self._ring.keys):
            log.error("keyring.key_unknown", key_ids=missing)
        return self._ring


def _key_id(ciphertext: bytes) -> str | None:
    try:
        return Keyring.key_id_of(ciphertext)
    except UnreadableCiphertext:
        return None
