"""QuantumSecrets: the standard library's `secrets`, on the source's bytes."""

from __future__ import annotations

import base64
import inspect
import secrets
import uuid
from collections import Counter

import pytest

from qrng_client.quantum_secrets import QuantumSecrets
from qrng_grpc.errors import SourceError
from tests.unit.qrng_client.byte_sources import Scripted, Seeded
from tests.unit.qrng_client.test_quantum_random import each_number

STREAM = Seeded().read(64)
NAMES = ["token_bytes", "token_hex", "token_urlsafe", "randbelow", "randbits", "choice"]


def ours(seed: int = 0) -> QuantumSecrets:
    return QuantumSecrets(Seeded(seed))


def test_tokens_are_the_bytes_of_the_source() -> None:
    """A token is the source's bytes, 32 of them unless another number is wanted."""
    assert ours().token_bytes() == STREAM[:32]
    assert ours().token_bytes(5) == STREAM[:5]
    assert ours().token_hex(5) == STREAM[:5].hex()
    assert base64.urlsafe_b64decode(ours().token_urlsafe(5) + "=") == STREAM[:5]
    assert len(ours().token_urlsafe()) == len(secrets.token_urlsafe())


def test_uuid() -> None:
    """A UUID is of version 4 and keeps 122 bits of the source."""
    value = ours().uuid4()
    assert value == uuid.UUID(bytes=STREAM[:16], version=4)
    assert value.version == 4
    assert value.variant == uuid.RFC_4122


@pytest.mark.parametrize("name", NAMES)
def test_names_and_arguments_are_those_of_secrets(name: str) -> None:
    """What is called as `secrets.NAME` is called likewise here."""
    theirs = list(inspect.signature(getattr(secrets, name)).parameters)
    assert len(inspect.signature(getattr(ours(), name)).parameters) == len(theirs)
    if name.startswith("token"):
        assert list(inspect.signature(getattr(ours(), name)).parameters) == theirs


def test_numbers_are_unbiased() -> None:
    """Of all accepted numbers exactly as many lead to each number and each element as to any other."""
    assert Counter(QuantumSecrets(source).randbelow(7) for source in each_number(7)) == Counter(range(7))
    assert Counter(QuantumSecrets(source).choice("abc") for source in each_number(3)) == Counter("abc")
    assert ours().randbits(128) == int.from_bytes(STREAM[:16], "big")
    assert ours().randbits(0) == 0
    assert ours().randbelow(1) == 0


@pytest.mark.parametrize("size", [0, -1])
def test_no_token_is_empty(size: int) -> None:
    """A token of no bytes guards nothing, so it is refused where `secrets` makes one."""
    for make in (ours().token_bytes, ours().token_hex, ours().token_urlsafe):
        with pytest.raises(ValueError, match="at least one byte"):
            make(size)


def test_mistakes() -> None:
    """What is out of range or no whole number is told before the source is asked."""
    source = Seeded()
    mistaken = QuantumSecrets(source)
    for bound in (0, -1):
        with pytest.raises(ValueError, match="at least 1"):
            mistaken.randbelow(bound)
    with pytest.raises(ValueError):
        mistaken.randbits(-1)
    with pytest.raises(IndexError):
        mistaken.choice([])
    for wrong in (1.5, "1"):
        with pytest.raises(TypeError):
            mistaken.token_bytes(wrong)  # type: ignore[arg-type]
    assert source.reads == []


@pytest.mark.parametrize("name", [*NAMES, "uuid4"])
def test_everything_fails_with_the_source(name: str) -> None:
    """When the source raises or gives too little, there is no token."""
    arguments = {"choice": ("abc",), "randbelow": (6,), "randbits": (99,)}.get(name, ())
    for script, error in (([OSError("gone")], OSError), ([b"short"[:4]], SourceError)):
        with pytest.raises(error):
            getattr(QuantumSecrets(Scripted(script)), name)(*arguments)


def test_a_token_is_not_kept() -> None:
    """Neither the object nor its repr holds anything of a token."""
    kept = ours()
    token = kept.token_hex()
    assert token not in repr(kept) + repr(vars(kept))
