"""Tokens: what is trusted, what is refused and why."""

import asyncio
import json
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import jwt
import pytest
from fastapi import Depends, FastAPI

from revisit_chassis import tokens
from revisit_chassis.db import Database
from revisit_chassis.http import ClinicId, require
from revisit_chassis.retention import purge
from revisit_chassis.schema import revoked_token
from revisit_chassis.tokens import (
    Denylist,
    DenylistNotRead,
    InvalidToken,
    Signer,
    Verifier,
    generate_signing_key,
    jwks_of,
)

Token = Callable[..., str]
Served = Callable[[Callable[[FastAPI], None]], AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
def verifier(keys: Path) -> Verifier:
    return Verifier(str(keys / "jwks.json"))


def test_valid_token_says_who_calls(verifier: Verifier, token: Token, clinic_id: uuid.UUID) -> None:
    principal = verifier.verify(token("things:read", "things:write"))
    assert principal.clinic_id == clinic_id
    assert principal.scopes == {"things:read", "things:write"}
    assert (principal.sub, principal.role) == ("olga", "staff")


def test_platform_token_has_no_clinic(verifier: Verifier, token: Token) -> None:
    assert verifier.verify(token(clinic_id=None)).clinic_id is None


def test_expired_token_is_refused(verifier: Verifier, token: Token) -> None:
    with pytest.raises(InvalidToken, match="expired"):
        verifier.verify(token(lifetime_seconds=-1))


def test_token_that_expires_after_it_was_remembered_is_refused(
    verifier: Verifier, token: Token, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = token(lifetime_seconds=60)
    verifier.verify(text)
    later = time.time() + 61
    monkeypatch.setattr(time, "time", lambda: later)
    with pytest.raises(InvalidToken, match="expired"):
        verifier.verify(text)


def test_token_of_an_unknown_key_is_refused(
    verifier: Verifier, tmp_path: Path, clinic_id: uuid.UUID
) -> None:
    generate_signing_key(tmp_path / "other.pem")
    other = Signer(tmp_path / "other.pem").issue(
        sub="x", clinic_id=clinic_id, scopes=(), role="", lifetime_seconds=60
    )
    with pytest.raises(InvalidToken, match="unknown key"):
        verifier.verify(other)


def test_key_added_to_the_jwks_is_learned_without_a_restart(
    verifier: Verifier, keys: Path, clinic_id: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "JWKS_REREAD_SECONDS", 0)
    generate_signing_key(keys / "next.pem")
    text = Signer(keys / "next.pem").issue(
        sub="x", clinic_id=clinic_id, scopes=(), role="", lifetime_seconds=60
    )
    both = jwks_of(keys / "signing.pem")["keys"] + jwks_of(keys / "next.pem")["keys"]
    (keys / "jwks.json").write_text(json.dumps({"keys": both}))
    assert verifier.verify(text).sub == "x"


def test_keys_of_unknown_kinds_are_passed_over(
    keys: Path, clinic_id: uuid.UUID, token: Token
) -> None:
    known = jwks_of(keys / "signing.pem")["keys"]
    strange = [{"kty": "AKP", "kid": "later", "alg": "ML-DSA-44", "pub": "AA"}, {"kty": "OKP"}]
    (keys / "jwks.json").write_text(json.dumps({"keys": [*strange, *known]}))
    assert Verifier(str(keys / "jwks.json")).verify(token()).clinic_id == clinic_id
    (keys / "jwks.json").write_text(json.dumps({"keys": strange}))
    with pytest.raises(ValueError, match="no key that can be used"):
        Verifier(str(keys / "jwks.json"))


async def test_reading_the_keys_again_keeps_no_other_request_waiting(
    verifier: Verifier, keys: Path, token: Token, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = token()
    known = await verifier.recognise(text)
    generate_signing_key(keys / "next.pem")
    unknown = Signer(keys / "next.pem").issue(
        sub="x", clinic_id=None, scopes=(), role="", lifetime_seconds=60
    )
    may_go_on = threading.Event()

    def slow(_: str) -> dict[str, jwt.PyJWK]:
        assert may_go_on.wait(timeout=5)
        return {}

    monkeypatch.setattr(tokens, "JWKS_REREAD_SECONDS", 0)
    monkeypatch.setattr(tokens, "_public_keys", slow)
    refusing = asyncio.create_task(verifier.recognise(unknown))
    await asyncio.sleep(0)
    assert await verifier.recognise(text) == known
    may_go_on.set()
    with pytest.raises(InvalidToken, match="unknown key"):
        await refusing


@pytest.mark.parametrize("change", ["signature", "payload", "none", "noise"])
def test_forged_token_is_refused(verifier: Verifier, token: Token, change: str) -> None:
    header, payload, signature = token().split(".")
    text = {
        "signature": f"{header}.{payload}.{signature[:-4]}AAAA",
        "payload": f"{header}.{payload[:-4]}AAAA.{signature}",
        "none": jwt.encode({"sub": "x"}, "", algorithm="none"),
        "noise": "Щербакова",
    }[change]
    with pytest.raises(InvalidToken):
        verifier.verify(text)


def test_token_whose_clinic_is_no_uuid_is_refused(verifier: Verifier, keys: Path) -> None:
    key = tokens._private_key(keys / "signing.pem")
    kid = jwks_of(keys / "signing.pem")["keys"][0]["kid"]
    claims = {"sub": "x", "jti": "1", "exp": 9_999_999_999, "clinic_id": "*"}
    text = jwt.encode(claims, key, algorithm="EdDSA", headers={"kid": kid})
    with pytest.raises(InvalidToken):
        verifier.verify(text)


def test_no_token_is_trusted_before_the_first_read_of_the_denylist(
    keys: Path, token: Token
) -> None:
    with pytest.raises(DenylistNotRead):
        Verifier(str(keys / "jwks.json"), Denylist(is_read=False)).verify(token())


async def test_revoked_token_is_refused_and_forgotten_once_it_expired(
    keys: Path, token: Token, clinic_id: uuid.UUID, database: Database, worker_database: Database
) -> None:
    denylist = Denylist(is_read=False)
    verifier = Verifier(str(keys / "jwks.json"), denylist)
    text = token()
    jti = jwt.decode(text, options={"verify_signature": False})["jti"]
    now = datetime.now(UTC)
    async with database.transaction((clinic_id,)) as connection:
        for name, expires_at in (
            (jti, now + timedelta(hours=1)),
            ("long-gone", now - timedelta(hours=2)),
        ):
            await connection.execute(
                revoked_token.insert().values(clinic_id=clinic_id, jti=name, expires_at=expires_at)
            )
    await denylist.refresh(database)
    with pytest.raises(InvalidToken, match="revoked"):
        verifier.verify(text)
    assert "long-gone" not in denylist
    async with worker_database.connect() as connection:
        await purge(connection)
        rows = await connection.execute(
            revoked_token.select().where(revoked_token.c.clinic_id == clinic_id)
        )
        assert [row.jti for row in rows] == [jti]


async def test_denylist_survives_a_database_that_does_not_answer(keys: Path) -> None:
    away = Database("postgresql://nobody:x@127.0.0.1:1/none")
    denylist = Denylist(is_read=False)
    await denylist.try_refresh(away)
    assert await denylist.check() == "not read yet"
    await away.close()


async def test_missing_scope_and_missing_clinic_are_403_and_no_token_is_401(
    served: Served, token: Token
) -> None:
    def routes(app: FastAPI) -> None:
        @app.get("/secret", dependencies=[Depends(require("secrets:read"))])
        async def secret() -> str:
            return "x"

        @app.get("/own")
        async def own(clinic_id: ClinicId) -> str:
            return str(clinic_id)

    async with served(routes) as client:
        assert (await client.get("/secret")).status_code == 403
        platform = {"Authorization": f"Bearer {token(clinic_id=None)}"}
        answer = await client.get("/own", headers=platform)
        assert (answer.status_code, answer.json()["type"]) == (403, "/problems/no-clinic")
        for header in ("", "Basic x", "Bearer", "Bearer x"):
            answer = await client.get("/own", headers={"Authorization": header})
            assert answer.status_code == 401
            assert "bearer" in answer.headers["www-authenticate"].lower()
