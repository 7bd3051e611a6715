"""Signed tokens: issued by a command, verified offline against public keys, revoked by a denylist."""

import asyncio
import json
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import jwt
import structlog
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from revisit_chassis.db import Database, fetch

ALGORITHM = "EdDSA"
CACHED_TOKENS = 10_000
REFRESH_SECONDS = 1.0
JWKS_REREAD_SECONDS = 10.0
"""A token of an unknown key makes the keys be read again, at most this often."""
JWKS_TIMEOUT_SECONDS = 2.0

_REVOKED = "SELECT jti FROM revoked_token WHERE expires_at > $1"

log = structlog.get_logger()


class DenylistNotRead(Exception):
    """Which tokens were revoked is not known yet, so none can be trusted."""


class InvalidToken(ValueError):
    """The token is malformed, expired, revoked or not signed by a known key."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls."""

    sub: str
    clinic_id: UUID | None
    scopes: frozenset[str]
    jti: str
    expires_at: datetime
    role: str = ""


class Signer:
    """Issues tokens with a private key.

    Args:
        path: File of `generate_signing_key`.
    """

    def __init__(self, path: Path | str) -> None:
        self._key = _private_key(path)
        self._kid = jwks_of(path)["keys"][0]["kid"]

    def issue(
        self,
        *,
        sub: str,
        clinic_id: UUID | None,
        scopes: Iterable[str],
        role: str,
        lifetime_seconds: int,
    ) -> str:
        """Gives a signed token.

        Args:
            sub: Whose it is.
            clinic_id: The tenant; none for a platform token.
            scopes: What it allows.
            role: Name of the set of scopes, for people.
            lifetime_seconds: Real time until it expires.
        """
        now = int(time.time())
        claims: dict[str, Any] = {
            "sub": sub,
            "scope": " ".join(sorted(scopes)),
            "role": role,
            "jti": secrets.token_urlsafe(16),
            "iat": now,
            "exp": now + lifetime_seconds,
        }
        if clinic_id is not None:
            claims["clinic_id"] = str(clinic_id)
        return jwt.encode(claims, self._key, algorithm=ALGORITHM, headers={"kid": self._kid})


class Denylist:
    """Ids of revoked tokens, kept in memory and read again each second.

    Args:
        is_read: False where no token is to be trusted before the first read.
    """

    def __init__(self, *, is_read: bool = True) -> None:
        self._revoked: frozenset[str] = frozenset()
        self.is_read = is_read

    def __contains__(self, jti: str) -> bool:
        return jti in self._revoked

    async def refresh(self, database: Database) -> None:
        """Reads the list.

        Args:
            database: Of the service.
        """
        async with database.single() as connection:
            # Tokens live in real time; an expired one is refused without the list.
            rows = await fetch(connection, _REVOKED, datetime.now(UTC))
            self._revoked = frozenset(row.jti for row in rows)
        self.is_read = True

    async def check(self) -> str | None:
        """Gives what is wrong for readiness: the list was never read."""
        return None if self.is_read else "not read yet"

    async def run(self, database: Database) -> None:
        """Reads the list each second until cancelled; keeps the last one while it cannot.

        Args:
            database: Of the service.
        """
        while True:
            await self.try_refresh(database)
            await asyncio.sleep(REFRESH_SECONDS)

    async def try_refresh(self, database: Database) -> None:
        """Reads the list; an error is logged and the last list stays.

        Args:
            database: Of the service.
        """
        try:
            await self.refresh(database)
        except Exception as error:  # noqa: BLE001  (whatever it is, the next read may succeed)
            log.warning("denylist.not_read", error=type(error).__name__)


class Verifier:
    """Verifies tokens; a verified one is remembered until it expires.

    Args:
        jwks: Public keys: a path or an http(s) address.
        denylist: Asked each time.
    """

    def __init__(self, jwks: str, denylist: Denylist | None = None) -> None:
        self._jwks = jwks
        self._keys = _public_keys(jwks)
        self._keys_read_at = time.monotonic()
        self.denylist = denylist or Denylist()
        self._verified: dict[str, tuple[float, Principal]] = {}

    def verify(self, token: str) -> Principal:
        """Gives who calls.

        Args:
            token: As it stands in the Authorization header.

        Raises:
            InvalidToken: It is not to be trusted; the text says why.
            DenylistNotRead: It is too early to say.
        """
        if not self.denylist.is_read:
            raise DenylistNotRead
        known = self._verified.get(token)
        if known is None:
            principal = self._decode(token)
            if len(self._verified) >= CACHED_TOKENS:
                self._verified.clear()
            self._verified[token] = (principal.expires_at.timestamp(), principal)
        else:
            expires, principal = known
            if expires <= time.time():
                del self._verified[token]
                raise InvalidToken("the token has expired")
        if principal.jti in self.denylist:
            raise InvalidToken("the token was revoked")
        return principal

    async def recognise(self, token: str) -> Principal:
        """Gives who calls, like `verify`, and never keeps the event loop waiting.

        A token seen for the first time is looked at in a thread: its key may be unknown, and then the keys
        are read again, perhaps over the network.

        Args:
            token: As it stands in the Authorization header.

        Raises:
            InvalidToken: It is not to be trusted; the text says why.
            DenylistNotRead: It is too early to say.
        """
        if token in self._verified:
            return self.verify(token)
        return await asyncio.to_thread(self.verify, token)

    def _decode(self, token: str) -> Principal:
        try:
            kid = jwt.get_unverified_header(token).get("kid", "")
            key = self._key(str(kid))
            claims = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                options={"require": ["sub", "exp", "jti"], "verify_iat": False},
            )
            clinic_id = claims.get("clinic_id")
            return Principal(
                sub=str(claims["sub"]),
                clinic_id=UUID(clinic_id) if clinic_id else None,
                scopes=frozenset(str(claims.get("scope", "")).split()),
                jti=str(claims["jti"]),
                expires_at=datetime.fromtimestamp(claims["exp"], UTC),
                role=str(claims.get("role", "")),
            )
        except jwt.ExpiredSignatureError as error:
            raise InvalidToken("the token has expired") from error
        except (jwt.InvalidTokenError, ValueError) as error:
            if isinstance(error, InvalidToken):
                raise
            raise InvalidToken("the token is malformed or its signature is wrong") from error

    def _key(self, kid: str) -> jwt.PyJWK:
        if kid not in self._keys:
            now = time.monotonic()
            if now - self._keys_read_at >= JWKS_REREAD_SECONDS:
                self._keys_read_at = now
                try:
                    self._keys = _public_keys(self._jwks)
                except (httpx.HTTPError, OSError, ValueError, KeyError, TypeError) as error:
                    log.warning("jwks.not_read", error=type(error).__name__)
        if kid not in self._keys:
            raise InvalidToken("the token was signed by an unknown key")
        return self._keys[kid]


def generate_signing_key(path: Path | str) -> None:
    """Writes a fresh private key that only the owner can read.

    Args:
        path: PEM file.
    """
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    target = Path(path)
    target.touch(mode=0o600)
    target.write_bytes(pem)


def jwks_of(path: Path | str) -> dict[str, list[dict[str, str]]]:
    """Gives the public key of a private one as a JSON Web Key Set.

    Args:
        path: File of `generate_signing_key`.
    """
    public = _private_key(path).public_key()
    key: dict[str, str] = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(public))
    return {"keys": [key | {"kid": key["x"][:16], "use": "sig", "alg": ALGORITHM}]}


def _private_key(path: Path | str) -> Ed25519PrivateKey:
    key = serialization.load_pem_private_key(Path(path).read_bytes(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise TypeError("the signing key is no Ed25519 key")
    return key


def _public_keys(jwks: str) -> Mapping[str, jwt.PyJWK]:
    if jwks.startswith(("http://", "https://")):
        content = httpx.get(jwks, timeout=JWKS_TIMEOUT_SECONDS).raise_for_status().json()
    else:
        content = json.loads(Path(jwks).read_text())
    found = {}
    for key in content["keys"]:
        # A key of a kind that is unknown here is to be passed over (RFC 7517, section 5).
        try:
            found[key["kid"]] = jwt.PyJWK(key)
        except (jwt.PyJWTError, KeyError, ValueError, TypeError) as error:
            log.warning("jwks.key_passed_over", error=type(error).__name__)
    if content["keys"] and not found:
        raise ValueError("the key set holds no key that can be used")
    return found
