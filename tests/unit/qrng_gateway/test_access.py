"""API keys: exactly one right key opens, everything else is refused with the same words."""

import hashlib

import pytest

from qrng_gateway.access import Access, bearer_key
from qrng_grpc.errors import AuthenticationError

KEYS = ("a-key-of-a-client-1", "a-key-of-a-client-2")
ACCESS = Access(KEYS)


@pytest.mark.parametrize(
    "metadata",
    [
        [("api-key", KEYS[1])],
        [("authorization", f"Bearer {KEYS[1]}")],
        [("authorization", f"bearer {KEYS[1]}")],
        [("user-agent", "x"), ("authorization", f"BEARER  {KEYS[1]} ")],
    ],
)
def test_one_right_key_opens(metadata: list[tuple[str, str | bytes]]) -> None:
    """A key is taken as `api-key` or as `authorization: Bearer`, and always names the same client."""
    assert ACCESS.client_of(metadata) == ACCESS.client_with([KEYS[1]])


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        [],
        [("api-key", "")],
        [("api-key", "a-key-of-a-client-3")],
        [("api-key", KEYS[0] + " ")],
        [("api-key", KEYS[0]), ("api-key", KEYS[0])],
        [("api-key", KEYS[0]), ("authorization", f"Bearer {KEYS[0]}")],
        [("api-key", KEYS[0]), ("authorization", "Basic Zm9v")],
        [("authorization", KEYS[0])],
        [("authorization", "Bearer ")],
        [("authorization", f"Basic {KEYS[0]}")],
        [("authorization", f"Bearer{KEYS[0]}")],
        [("api-key", "\udcff" * 20)],
    ],
)
def test_anything_else_is_refused_in_the_same_words(metadata: list[tuple[str, str | bytes]] | None) -> None:
    """Missing, empty, wrong, doubled and malformed keys cannot be told apart by the answer."""
    with pytest.raises(AuthenticationError) as caught:
        ACCESS.client_of(metadata)
    assert caught.value.message == "a valid API key is required"


def test_a_client_is_known_by_an_id_that_does_not_give_its_key_away() -> None:
    """Ids differ between keys, stay the same for one, and hold neither the key nor its digest."""
    first, second = ACCESS.client_with([KEYS[0]]), ACCESS.client_with([KEYS[1]])
    assert first != second
    assert first == Access(KEYS[:1]).client_with([KEYS[0]])
    assert hashlib.sha256(KEYS[0].encode()).hexdigest()[:8] not in first
    assert KEYS[0] not in repr(vars(ACCESS))


def test_no_key_configured_opens_nothing() -> None:
    """Without keys nobody gets in, least of all with an empty key."""
    with pytest.raises(AuthenticationError):
        Access([]).client_with([""])


def test_bearer_key_of_another_scheme_is_empty() -> None:
    """Only the scheme Bearer carries a key."""
    assert bearer_key("Bearer abc") == "abc"
    assert bearer_key("Digest abc") == ""
