"""Keys and tokens of the embedded default, kept in its data folder."""

import json
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from booking.roles import scopes_of
from revisit_chassis.crypto import generate_keyring
from revisit_chassis.tokens import Signer, generate_signing_key, jwks_of

TOKEN_LIFETIME_SECONDS = 30 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Keys:
    """Where the keys of one data folder are."""

    data_dir: Path

    @property
    def signing_key(self) -> Path:
        """Private key that signs tokens."""
        return self.data_dir / "signing-key.pem"

    @property
    def jwks(self) -> Path:
        """Public keys against which tokens are verified."""
        return self.data_dir / "jwks.json"

    @property
    def keyring(self) -> Path:
        """Keys that encrypt contact data."""
        return self.data_dir / "keyring.json"

    @property
    def callback_secret(self) -> Path:
        """What the SMS gateway signs its delivery receipts with."""
        return self.data_dir / "callback-secret"

    def ensure(self) -> None:
        """Makes what is missing."""
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make(self.signing_key, generate_signing_key)
        _make(self.jwks, lambda path: path.write_text(json.dumps(jwks_of(self.signing_key))))
        _make(self.keyring, generate_keyring)
        _make(self.callback_secret, _write_secret)

    def issue(self, role: str, clinic_id: UUID | None) -> str:
        """Gives a signed token.

        Args:
            role: One of the roles of `booking.roles`.
            clinic_id: The clinic; none makes a platform token, for the role `admin` only.

        Raises:
            ValueError: There is no such role, or it needs a clinic.
        """
        return Signer(self.signing_key).issue(
            sub=f"{role}@standalone",
            clinic_id=clinic_id,
            scopes=scopes_of(role, is_platform=clinic_id is None),
            role=role,
            lifetime_seconds=TOKEN_LIFETIME_SECONDS,
        )


def _write_secret(path: Path) -> None:
    path.touch(mode=0o600)
    path.write_text(secrets.token_urlsafe(32))


def _make(path: Path, write: Callable[[Path], object]) -> None:
    """Makes a file unless it is there: whole, and once, however many start at the same time.

    `token` may run beside a first `serve`. A link fails where a file is already, so of two that were
    made the first one stays and both processes go on with it.
    """
    if path.exists():
        return
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    write(fresh)
    try:
        os.link(fresh, path)
    except FileExistsError:
        pass
    finally:
        fresh.unlink()
