"""Writes `.env` and `deploy/secrets` for docker-compose: random passwords and keys, nothing by default.

Run by `make env`. What exists already is kept, so that a running platform keeps its passwords.
"""

import base64
import json
import secrets
import sys
import uuid
from pathlib import Path

from revisit_chassis.crypto import generate_keyring
from revisit_chassis.tokens import generate_signing_key, jwks_of

SERVICES = ("booking", "engagement", "feedback", "scoring")


def environment_names() -> list[str]:
    """Names of the secrets that docker-compose.yml reads from `.env`."""
    passwords = [
        f"{service.upper()}{role}_PASSWORD"
        for service in SERVICES
        for role in ("", "_WORKER", "_OWNER")
    ]
    return ["POSTGRES_PASSWORD", *passwords, "KAFKA_CLUSTER_ID"]


def write_environment(root: Path) -> list[Path]:
    """Writes what is missing below the project's root; gives the files written."""
    written = []
    env = root / ".env"
    if not env.exists():
        env.touch(mode=0o600)
        env.write_text("".join(f"{name}={_value(name)}\n" for name in environment_names()))
        written.append(env)
    folder = root / "deploy" / "secrets"
    folder.mkdir(mode=0o700, exist_ok=True)
    signing_key, jwks, keyring = (
        folder / name for name in ("signing-key.pem", "jwks.json", "keyring.json")
    )
    if not signing_key.exists():
        generate_signing_key(signing_key)
        jwks.write_text(json.dumps(jwks_of(signing_key)))
        written += [signing_key, jwks]
    if not keyring.exists():
        generate_keyring(keyring)
        written.append(keyring)
    for path in (jwks, keyring):
        # The containers read them as another user; the folder itself stays the owner's alone.
        path.chmod(0o644)
    return written


def _value(name: str) -> str:
    if name == "KAFKA_CLUSTER_ID":
        return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    return secrets.token_urlsafe(24)


if __name__ == "__main__":
    for path in write_environment(Path(__file__).parent.parent):
        sys.stdout.write(f"wrote {path}\n")
