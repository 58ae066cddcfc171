"""Signing keys and the files they lie in: docs/spec/identity.md, I-14 and I-16."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from cryptography.hazmat.primitives import serialization
from identity_forge import new_key

from swarmlearning.errors import IdentityError, VerificationError
from swarmlearning.identity.files import MAX_FILE_BYTES, SECRET_MODE, read_file, read_secret, write_file
from swarmlearning.identity.signing import SigningKey, verify_signature


def test_i14_a_signature_holds_for_its_key_domain_and_data_only() -> None:
    key, other = SigningKey.create(), SigningKey.create()
    signature = key.sign(b"tx\x00", b"data")
    assert (len(key.public), len(signature)) == (32, 64)
    verify_signature(key.public, b"tx\x00", b"data", signature)
    for public, domain, data, shown in (
        (other.public, b"tx\x00", b"data", signature),
        (key.public, b"header\x00", b"data", signature),
        (key.public, b"tx\x00", b"date", signature),
        (key.public, b"tx\x00", b"data", bytes(64)),
        (bytes(32), b"tx\x00", b"data", signature),
        (b"\xff" * 32, b"tx\x00", b"data", signature),
        (key.public[:31], b"tx\x00", b"data", signature),
        (key.public, b"tx\x00", b"data", signature + b"\x00"),
    ):
        with pytest.raises(VerificationError, match="Ed25519 signature"):
            verify_signature(public, domain, data, shown)


def test_i14_a_signing_key_is_the_same_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "state" / "signing.key.pem"
    created = SigningKey.load_or_create(path)
    assert SigningKey.load_or_create(path).public == SigningKey.load(path).public == created.public
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["signing.key.pem"], "no temporary file is left"


def test_i14_processes_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    barrier = Barrier(8)

    def start(_: int) -> bytes:
        barrier.wait()
        return SigningKey.load_or_create(tmp_path / "signing.key.pem").public

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(start, range(8)))) == 1


def test_i14_another_kind_of_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    pem = new_key().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_file(path, pem, mode=SECRET_MODE)
    with pytest.raises(IdentityError, match="expected an Ed25519 key"):
        SigningKey.load(path)
    write_file(path, b"rubbish", mode=SECRET_MODE, force=True)
    with pytest.raises(IdentityError, match="not an unencrypted PKCS#8 PEM private key"):
        SigningKey.load(path)
    assert path.read_bytes() == b"rubbish", "what cannot be read is not replaced"
    with pytest.raises(IdentityError, match="not an unencrypted"):
        SigningKey.load_or_create(path)


def test_i14_a_signing_key_does_not_show_itself() -> None:
    key = SigningKey.create()
    assert key.pem().decode().splitlines()[1] not in repr(key) + str(key)


def test_i16_a_secret_that_everybody_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    SigningKey.load_or_create(path)
    for mode in (0o604, 0o602):
        path.chmod(mode)
        with pytest.raises(IdentityError, match="chmod 600"):
            SigningKey.load(path)
    path.chmod(0o640)
    SigningKey.load(path)


def test_i16_a_file_is_not_overwritten_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_file(path, b"first", mode=SECRET_MODE)
    with pytest.raises(IdentityError, match="exists; choose another place, or overwrite it with --force"):
        write_file(path, b"second", mode=SECRET_MODE)
    assert path.read_bytes() == b"first"
    write_file(path, b"third", mode=SECRET_MODE, force=True)
    assert path.read_bytes() == b"third"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("force", [False, True])
def test_i16_a_write_that_fails_midway_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    path = tmp_path / "file"
    if force:
        write_file(path, b"old", mode=SECRET_MODE)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(IdentityError, match="No space left"):
        write_file(path, b"new", mode=SECRET_MODE, force=force)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == ({"file": b"old"} if force else {})


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match=r"certificate .*missing\.pem: cannot be read \(No such file"):
        read_file(tmp_path / "missing.pem", "certificate")
    with pytest.raises(IdentityError, match="Is a directory"):
        read_secret(tmp_path, "key")
    large = tmp_path / "large"
    large.write_bytes(bytes(MAX_FILE_BYTES + 1))
    with pytest.raises(IdentityError, match="more than 1048576 bytes"):
        read_file(large, "certificate")


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(IdentityError, match="cannot be created"):
        SigningKey.load_or_create(tmp_path / "file" / "state" / "key.pem")
