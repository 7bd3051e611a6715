"""Encryption of personal data in columns and on the wire: AES-256-GCM with a ring of keys.

A ciphertext begins with the id of its key, so that old texts stay readable after a rotation. The
context (clinic and record) is authenticated: a ciphertext moved to another record does not open.
"""

import base64
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
NONCE_BYTES = 12


class UnreadableCiphertext(ValueError):
    """The key is unknown, or the text was changed or belongs to another record."""


@dataclass(frozen=True, slots=True)
class Keyring:
    """Keys by id; the active one encrypts, all of them decrypt."""

    active_id: str
    keys: Mapping[str, AESGCM]

    @classmethod
    def load(cls, path: Path | str) -> "Keyring":
        """Reads a key ring: `{"active": id, "keys": {id: base64}}`.

        Args:
            path: File of `generate_keyring`.
        """
        content = json.loads(Path(path).read_text())
        keys = {name: AESGCM(base64.b64decode(key)) for name, key in content["keys"].items()}
        return cls(content["active"], keys)

    def encrypt(self, plaintext: bytes, context: bytes) -> bytes:
        """Gives the ciphertext under the active key.

        Args:
            plaintext: What is to be kept.
            context: Where it is kept; needed again to decrypt.
        """
        key_id = self.active_id.encode()
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed = self.keys[self.active_id].encrypt(nonce, plaintext, context)
        return bytes([len(key_id)]) + key_id + nonce + sealed

    def decrypt(self, ciphertext: bytes, context: bytes) -> bytes:
        """Gives the plaintext.

        Args:
            ciphertext: Made by `encrypt`, under any key of the ring.
            context: The same as then.

        Raises:
            UnreadableCiphertext: It does not open.
        """
        key_id = self.key_id_of(ciphertext)
        start = 1 + len(key_id)
        key = self.keys.get(key_id)
        if key is None:
            raise UnreadableCiphertext("the key of this text is not in the ring")
        nonce = ciphertext[start : start + NONCE_BYTES]
        try:
            return key.decrypt(nonce, ciphertext[start + NONCE_BYTES :], context)
        except (InvalidTag, ValueError) as error:
            raise UnreadableCiphertext("the text was changed or is not of this record") from error

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


def rotate(path: Path | str) -> str:
    """Adds a fresh key and makes it the active one; gives its id. Older keys stay for reading.

    Args:
        path: File of `generate_keyring`.
    """
    content = json.loads(Path(path).read_text())
    key_id = _new_key_id()
    content["keys"][key_id] = _new_key()
    content["active"] = key_id
    _write(Path(path), content)
    return key_id


def _new_key_id() -> str:
    return f"k{secrets.token_hex(4)}"


def _new_key() -> str:
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()


def _write(path: Path, content: object) -> None:
    fresh = path.with_suffix(".new")
    fresh.touch(mode=0o600)
    fresh.write_text(json.dumps(content, indent=1))
    fresh.replace(path)
