"""The key ring: what it opens, what it refuses, and a whole rotation."""

import uuid
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from revisit_chassis import crypto
from revisit_chassis.crypto import Keyring, UnknownKey, UnreadableCiphertext, generate_keyring
from revisit_chassis.db import is_infrastructure_fault
from revisit_chassis.keyring import main


@pytest.fixture
def ring(tmp_path: Path) -> Path:
    generate_keyring(tmp_path / "ring.json")
    return tmp_path / "ring.json"


def test_ring_is_readable_by_its_owner_alone(ring: Path) -> None:
    assert ring.stat().st_mode & 0o077 == 0


def test_text_opens_with_its_own_context_only(ring: Path) -> None:
    keyring = Keyring.load(ring)
    sealed = keyring.encrypt("Щербакова".encode(), b"here")
    assert keyring.decrypt(sealed, b"here").decode() == "Щербакова"
    with pytest.raises(UnreadableCiphertext):
        keyring.decrypt(sealed, b"there")
    with pytest.raises(UnreadableCiphertext):
        keyring.decrypt(sealed[:-1] + bytes([sealed[-1] ^ 1]), b"here")


@given(st.binary(max_size=60))
def test_any_bytes_are_refused_by_name(noise: bytes) -> None:
    keyring = Keyring("k", {"k": AESGCM(bytes(32))})
    with pytest.raises((UnreadableCiphertext, UnknownKey)):
        keyring.decrypt(noise, b"")


def test_unknown_key_is_worth_a_retry_and_not_unreadable(ring: Path, tmp_path: Path) -> None:
    generate_keyring(tmp_path / "other.json")
    sealed = Keyring.load(tmp_path / "other.json").encrypt(b"x", b"")
    with pytest.raises(UnknownKey) as caught:
        Keyring.load(ring).decrypt(sealed, b"")
    assert is_infrastructure_fault(caught.value)
    assert not isinstance(caught.value, UnreadableCiphertext)


def test_running_reader_learns_a_key_that_was_added_later(
    ring: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crypto, "REREAD_SECONDS", 0)
    reader = Keyring.load(ring)
    crypto.activate_key(ring, crypto.add_key(ring))
    assert reader.decrypt(Keyring.load(ring).encrypt(b"x", b""), b"") == b"x"


def test_rotation_by_the_commands(ring: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old_id = Keyring.load(ring).active_id
    old = Keyring.load(ring).encrypt(b"old", b"")
    assert main(["add", "--file", str(ring)]) == 0
    new_id = capsys.readouterr().out.strip()
    assert Keyring.load(ring).active_id == old_id
    assert main(["retire", old_id, "--file", str(ring)]) == 2
    assert main(["activate", new_id, "--file", str(ring)]) == 0
    rotated = Keyring.load(ring)
    assert Keyring.key_id_of(rotated.encrypt(b"new", b"")) == new_id
    assert rotated.decrypt(old, b"") == b"old"
    capsys.readouterr()
    assert main(["show", "--file", str(ring)]) == 0
    assert capsys.readouterr().out.split("\n")[:2] == [old_id, f"{new_id} active"]
    assert main(["retire", old_id, "--file", str(ring)]) == 0
    with pytest.raises(UnknownKey):
        Keyring.load(ring).decrypt(old, b"")
    assert main(["activate", str(uuid.uuid4()), "--file", str(ring)]) == 2


def test_a_changed_ring_stays_readable_for_whom_it_was(tmp_path: Path) -> None:
    ring = tmp_path / "keyring.json"
    crypto.generate_keyring(ring)
    assert ring.stat().st_mode & 0o777 == 0o600
    ring.chmod(0o644)
    crypto.add_key(ring)
    assert ring.stat().st_mode & 0o777 == 0o644
