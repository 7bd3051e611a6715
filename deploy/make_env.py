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
    return ["POSTGRES_PASSWORD", *passwords, "KAFKA_CLUSTER_ID", "ENGAGEMENT_CALLBACK_SECRET"]


def write_environment(root: Path) -> list[Path]:
    """Writes what is missing below the project's root; gives the files written."""
    written = []
    env = root / ".env"
    env.touch(mode=0o600)
    kept = env.read_text()
    known = {line.partition("=")[0] for line in kept.splitlines()}
    if missing := [name for name in environment_names() if name not in known]:
        # A file of an earlier version keeps its passwords and gets what was added since.
        kept += "" if kept.endswith("\n") or not kept else "\n"
        env.write_text(kept + "".join(f"{name}={_value(name)}\n" for name in missing))
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
