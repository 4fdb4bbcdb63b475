"""What the HTTP source makes of addresses, trust settings and Retry-After, without a connection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from qrng_grpc.labels import SourceClass
from qrng_grpc.sources.http import HttpSource, appliance_url, retry_after_s
from qrng_grpc.sources.presets import PRESETS, Provider

NOW_NS = 1_735_689_600 * 10**9  # Wed, 01 Jan 2025 00:00:00 GMT


@pytest.mark.parametrize(
    "url",
    [
        "https://appliance.example",
        "https://10.0.0.7:8443/",
        "https://bücher.example.",
        "https://gate.example/quantis",
        "http://127.0.0.1:8000",
        "http://[::1]",
        "http://localhost",
    ],
)
def test_addresses(url: str) -> None:
    """HTTPS to anywhere, and plain HTTP that stays on this machine."""
    assert appliance_url(url).host


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("", "expected https"),
        ("appliance.example", "expected https"),
        ("ftp://appliance.example", "expected https"),
        ("https://", "expected https|not a URL"),
        ("https://[::1", "not a URL"),
        ("https://host:99999999", "not a URL"),
        ("https://qrng..lab.example", "none that can be looked up"),
        ("https://.lab", "none that can be looked up"),
        (f"https://{'a' * 64}.example", "none that can be looked up"),
        ("https://user:secret@host", "user name"),
        ("https://host?x=1", "query"),
        ("https://host#x", "query"),
        ("http://10.0.0.7", "loopback"),
        ("http://appliance.example:80", "loopback"),
    ],
)
def test_no_addresses(url: str, text: str) -> None:
    """Anything else is refused, in words that do not repeat the address."""
    with pytest.raises(ValueError, match=text) as refusal:
        appliance_url(url)
    assert "secret" not in str(refusal.value)
    assert refusal.value.__cause__ is None


def test_plaintext_on_demand() -> None:
    """A setting in so many words admits plain HTTP beyond loopback."""
    assert appliance_url("http://10.0.0.7", allow_plaintext=True).scheme == "http"


@pytest.mark.parametrize("fingerprint", ["", "00", "zz" * 32, "00" * 31, "00" * 33])
def test_fingerprints_are_sha256(fingerprint: str) -> None:
    """What is not 32 bytes in hexadecimal pins nothing and is refused."""
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        HttpSource("https://host", source_class=SourceClass.QUANTUM, device_id="q", fingerprint=fingerprint)


def test_ca_file_must_be_one(tmp_path: Path) -> None:
    """A CA bundle that is missing or holds no certificate is refused before any connection."""
    (tmp_path / "empty.pem").write_text("nothing")
    for name in ("gone.pem", "empty.pem"):
        with pytest.raises(ValueError, match="CA bundle cannot be used"):
            HttpSource("https://host", source_class=SourceClass.QUANTUM, device_id="q", ca_file=tmp_path / name)


def test_one_kind_of_trust(tmp_path: Path) -> None:
    """CA bundle and fingerprint together are refused: nobody could say which of them counts."""
    with pytest.raises(ValueError, match="not both"):
        HttpSource(
            "https://host",
            source_class=SourceClass.QUANTUM,
            device_id="q",
            ca_file=tmp_path / "x",
            fingerprint="00" * 32,
        )


def test_trust_needs_tls() -> None:
    """A fingerprint that plain HTTP would pass over is refused, lest somebody rely on it."""
    with pytest.raises(ValueError, match="use https"):
        HttpSource("http://127.0.0.1", source_class=SourceClass.QUANTUM, device_id="q", fingerprint="00" * 32)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0.0),
        ("7", 7.0),
        ("3600", 3600.0),
        ("86400", 3600.0),
        ("9" * 19, 3600.0),
        ("9" * 5000, 3600.0),
        ("Wed, 01 Jan 2025 00:00:30 GMT", 30.0),
        ("Wed, 01 Jan 2025 00:00:30 -0000", 30.0),
        ("Tue, 31 Dec 2024 23:00:00 GMT", 0.0),
        ("Fri, 01 Jan 2100 00:00:00 GMT", 3600.0),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("٣", None),
        ("Wed, 99 Jan 2025 00:00:30 GMT", None),
    ],
)
def test_retry_after(header: str, seconds: float | None) -> None:
    """Seconds and HTTP dates are read, at most an hour is believed, anything else says nothing."""
    assert retry_after_s(header, NOW_NS) == seconds


@given(st.text(st.characters(min_codepoint=32, max_codepoint=255)))
def test_any_header_is_read_or_passed_over(header: str) -> None:
    """Whatever an appliance sends as Retry-After is between nothing and an hour, or nothing said."""
    seconds = retry_after_s(header, NOW_NS)
    assert seconds is None or 0 <= seconds <= 3600


def test_no_better_class_than_the_provider() -> None:
    """What a Vault hands out is its operating system's, whatever somebody states; a weaker class may be stated."""
    vault: dict[str, Any] = {"provider": PRESETS["vault"], "key": SecretStr("token"), "device_id": "v"}
    for better in (SourceClass.QUANTUM, SourceClass.HARDWARE):
        with pytest.raises(ValueError, match="operating_system at best"):
            HttpSource("https://host", source_class=better, **vault)
    assert HttpSource("https://host", source_class=SourceClass.SIMULATED, **vault).label.device_ids == ("v",)


@pytest.mark.parametrize(
    ("url", "preset", "key", "text"),
    [
        ("https://host", "vault", None, "needs a key"),
        ("https://host", "pollen", "secret-key", "takes no key"),
        ("https://host", "vault", "secret key", "printable ASCII"),
        (None, "quantis", None, "needs the URL"),
    ],
)
def test_what_a_provider_needs_is_asked_for_at_once(url: str | None, preset: str, key: str | None, text: str) -> None:
    """A missing or unusable key or address is refused before any read, and not repeated."""
    secret = None if key is None else SecretStr(key)
    with pytest.raises(ValueError, match=text) as refusal:
        HttpSource(url, source_class=SourceClass.SIMULATED, device_id="d", provider=PRESETS[preset], key=secret)
    assert "secret" not in str(refusal.value)


def test_a_fixed_address_is_checked_too() -> None:
    """A provider whose URL says where it is must be under TLS as well, and trust settings need TLS."""
    plain = Provider("plain", "http://192.0.2.7/{bytes}", "raw", SourceClass.QUANTUM)
    with pytest.raises(ValueError, match="loopback"):
        HttpSource(None, source_class=SourceClass.QUANTUM, device_id="q", provider=plain)
    allowed: dict[str, Any] = {
        "source_class": SourceClass.QUANTUM,
        "device_id": "q",
        "provider": plain,
        "allow_plaintext": True,
    }
    HttpSource(None, **allowed)
    with pytest.raises(ValueError, match="use https"):
        HttpSource(None, **allowed, fingerprint="00" * 32)
