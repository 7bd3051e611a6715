"""Encryption of personal data in columns and on the wire: AES-256-GCM with a ring of keys.

A ciphertext begins with the id of its key, so that old texts stay readable after a rotation. The
context (clinic and record) is authenticated: a ciphertext moved to another record does not open.

A rotation is `add_key`, `activate_key`, encrypting anew (`revisit_chassis.reencrypt`), `retire_key`; the
commands are `python -m revisit_chassis.keyring`.
"""

import base64
import json
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
NONCE_BYTES = 12
REREAD_SECONDS = 1.0


class UnreadableCiphertext(ValueError):
    """The text was changed, belongs to another record, or is none of ours."""


class UnknownKey(LookupError):
    """The key of this text is not in the ring, or not yet: the text is good, try again later."""


class Keyring:
    """Keys by id; the active one encrypts, all of them decrypt.

    Args:
        active_id: Encrypts.
        keys: By id.
        path: Where they were read; read again when a text names a key that is not known yet.
    """

    def __init__(
        self, active_id: str, keys: Mapping[str, AESGCM], path: Path | None = None
    ) -> None:
        self.active_id = active_id
        self.keys = keys
        self._path = path
        self._read_at = time.monotonic()

    @classmethod
    def load(cls, path: Path | str) -> "Keyring":
        """Reads a key ring: `{"active": id, "keys": {id: base64}}`.

        Args:
            path: File of `generate_keyring`.
        """
        content = _read(Path(path))
        return cls(content["active"], _keys_of(content), Path(path))

    def encrypt(self, plaintext: bytes, context: bytes) -> bytes:
        """Gives the ciphertext under the active key.

        Args:
            plaintext: What is to be kept.
            context: Where it is kept; needed again to decrypt.
        """
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed = self.keys[self.active_id].encrypt(nonce, plaintext, context)
        return self.active_prefix + nonce + sealed

    def decrypt(self, ciphertext: bytes, context: bytes) -> bytes:
        """Gives the plaintext.

        Args:
            ciphertext: Made by `encrypt`, under any key of the ring.
            context: The same as then.

        Raises:
            UnreadableCiphertext: It does not open.
            UnknownKey: Its key is not in the ring.
        """
        key_id = self.key_id_of(ciphertext)
        start = 1 + len(key_id.encode())
        key = self._key(key_id)
        nonce = ciphertext[start : start + NONCE_BYTES]
        try:
            return key.decrypt(nonce, ciphertext[start + NONCE_BYTES :], context)
        except (InvalidTag, ValueError) as error:
            raise UnreadableCiphertext("the text was changed or is not of this record") from error

    @property
    def active_prefix(self) -> bytes:
        """What every ciphertext under the active key begins with."""
        return _prefix(self.active_id)

    def _key(self, key_id: str) -> AESGCM:
        if key_id not in self.keys and self._path is not None:
            # Another process may use a key already that was added after this one started.
            now = time.monotonic()
            if now - self._read_at >= REREAD_SECONDS:
                self._read_at = now
                self.keys = _keys_of(_read(self._path))
        if key_id not in self.keys:
            raise UnknownKey
        return self.keys[key_id]

    @staticmethod
    def key_id_of(ciphertext: bytes) -> str:
        """Gives the id of the key that a ciphertext needs.

        Raises:
            UnreadableCiphertext: It is no ciphertext of ours.
        """
        if not ciphertext or len(ciphertext) <= ciphertext[0]:
            raise UnreadableCiphertext("this is no ciphertext")
        try:
            return ciphertext[1 : 1 + ciphertext[0]].decode()
        except UnicodeDecodeError as error:
            raise UnreadableCiphertext("this is no ciphertext") from error


def generate_keyring(path: Path | str) -> None:
    """Writes a key ring with one fresh key.

    Args:
        path: Readable by the owner alone afterwards.
    """
    key_id = _new_key_id()
    _write(Path(path), {"active": key_id, "keys": {key_id: _new_key()}})


def add_key(path: Path | str) -> str:
    """Adds a fresh key that is not used yet and gives its id: first every reader must know it.

    Args:
        path: File of `generate_keyring`.
    """
    content = _read(Path(path))
    key_id = _new_key_id()
    content["keys"][key_id] = _new_key()
    _write(Path(path), content)
    return key_id


def activate_key(path: Path | str, key_id: str) -> None:
    """Makes a key of the ring the one that encrypts; the others stay for reading.

    Args:
        path: File of `generate_keyring`.
        key_id: Given by `add_key`.

    Raises:
        UnknownKey: There is no such key.
    """
    content = _read(Path(path))
    if key_id not in content["keys"]:
        raise UnknownKey
    content["active"] = key_id
    _write(Path(path), content)


def retire_key(path: Path | str, key_id: str) -> None:
    """Takes a key out of the ring; what is still encrypted under it is lost for ever.

    Args:
        path: File of `generate_keyring`.
        key_id: Not the active one.

    Raises:
        UnknownKey: There is no such key.
        ValueError: It is the active one.
    """
    content = _read(Path(path))
    if key_id not in content["keys"]:
        raise UnknownKey
    if key_id == content["active"]:
        raise ValueError("the active key cannot be retired: activate another one first")
    del content["keys"][key_id]
    _write(Path(path), content)


def key_ids(path: Path | str) -> tuple[str, tuple[str, ...]]:
    """Gives the id of the active key, and the ids of all.

    Args:
        path: File of `generate_keyring`.
    """
    content = _read(Path(path))
    return content["active"], tuple(content["keys"])


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def _keys_of(content: Mapping[str, Any]) -> dict[str, AESGCM]:
    return {name: AESGCM(base64.b64decode(key)) for name, key in content["keys"].items()}


def _prefix(key_id: str) -> bytes:
    encoded = key_id.encode()
    return bytes([len(encoded)]) + encoded


def _new_key_id() -> str:
    return f"k{secrets.token_hex(4)}"


def _new_key() -> str:
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()


def _write(path: Path, content: object) -> None:
    fresh = path.with_suffix(".new")
    fresh.touch(mode=0o600)
    if path.exists():
        # Whoever may read the ring may go on reading it: in a container another user does.
        fresh.chmod(path.stat().st_mode & 0o777)
    fresh.write_text(json.dumps(content, indent=1))
    fresh.replace(path)
