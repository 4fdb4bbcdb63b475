"""The collector's settings.

Idea: one model says where bytes come from, how long they may wait and where they go. What has no safe
default (keys, ids, the class a key may claim, the gateway, where state lies) has none. A setting that
would have no effect with the chosen source is refused, since someone who names an appliance must not be
served the operating system's randomness instead.
"""

from __future__ import annotations

import math
import re
import ssl
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import NoDecode

from qrng_collector.source_settings import check_mix, check_mix_pace, check_own_pace, check_sources
from qrng_collector.spool import MIN_SPOOL_BYTES, read_spool_key
from qrng_collector.target import MAX_POOLS, PoolTarget, PushTls, gateway_address
from qrng_grpc.backoff import RetryPolicy
from qrng_grpc.chunk import MAX_CHUNK_BYTES, checked_id
from qrng_grpc.config import host_and_port, is_loopback
from qrng_grpc.errors import ConfigError
from qrng_grpc.files import about, why_unreadable
from qrng_grpc.hardening import LockMemory
from qrng_grpc.health_tests.cutoffs import MAX_ENTROPY
from qrng_grpc.key_files import read_key_file
from qrng_grpc.key_settings import KeySettings
from qrng_grpc.keys import KeyRecord
from qrng_grpc.labels import Custody, SourceClass
from qrng_grpc.logs import LogLevel
from qrng_grpc.sources.http import appliance_url
from qrng_grpc.sources.kinds import AnySource
from qrng_grpc.sources.mixing import XOR_BITS_PER_BYTE, MixingStrategy

ENV_PREFIX = "QRNG_COLLECTOR_"
MAX_SOURCES = 64

SourceKind = Literal["system", "http", "device", "mock"]
FIXED_CLASSES = {"system": SourceClass.OPERATING_SYSTEM, "mock": SourceClass.SIMULATED}
"""The kinds of source whose class is known."""

DEFAULT_SPOOL_BYTES = 64 << 20

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")

Seconds = Annotated[float, Field(allow_inf_nan=False)]


class CollectorConfig(KeySettings, PushTls):  # type: ignore[misc]  # both have the same model_config
    """What a collector reads, how it keeps it, and where it pushes it."""

    collector_id: str = Field(description="Id of this collector, as the keys' records at the gateway have it.")
    pool_id: str | None = Field(
        None, description="Id of the pool the chunks are for. Required, unless there are pools."
    )
    best_class: SourceClass = Field(description="The best class of source the keys may claim.")

    sources: tuple[AnySource, ...] = Field(
        (),
        max_length=MAX_SOURCES,
        description="Several sources, or one in detail, in place of the settings of one source below. Each entry has a"
        " kind: system, http, grpc, device, jitter, mock, or one that an installed package adds.",
    )
    source: SourceKind = Field(
        "system", description="Kind of source: system (os.urandom), http (Quantis appliance), device, mock (simulated)."
    )
    appliance_url: str | None = Field(
        None, validate_default=True, description="URL of an appliance, as in https://192.0.2.7. Only with source=http."
    )
    appliance_urls: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        max_length=MAX_SOURCES,
        validate_default=True,
        description="URLs of several appliances, each a source of its own: a YAML list, or comma-separated.",
    )
    appliance_ca_file: Path | None = Field(
        None, description="PEM file of the authorities that may have signed the appliance's certificate."
    )
    appliance_fingerprint: str | None = Field(
        None, description="SHA-256 of the appliance's certificate: 64 hexadecimal digits, colons allowed."
    )
    device_path: Path | None = Field(
        None, validate_default=True, description="Character device or file to read. Required with source=device."
    )
    mock_seed: int = Field(0, ge=0, lt=1 << 64, description="Seed of the simulated source; equal seeds, equal bytes.")
    source_class: SourceClass = Field(
        None,
        validate_default=True,
        description="Class of the source's bytes. Required with source=http and source=device, fixed with the others.",
    )
    source_custody: Custody = Field(
        None,
        validate_default=True,
        description="remote when a third party could see the bytes on their way. Default: remote with source=http.",
    )
    device_id: str | None = Field(
        None, description="Id of the source in replies; of several appliances each gets a number behind it."
    )

    assessed_entropy: Seconds = Field(
        8, gt=0, le=8, description="Bits of entropy in a byte of the source, by your assessment; above 0, at most 8."
    )

    mixing_strategy: MixingStrategy = Field(
        "none",
        description="What becomes of several sources: none (each stands alone), concat, xor or hkdf.",
    )
    on_missing_leg: Literal["stop", "degrade"] = Field(
        "stop",
        description="When a source of a mix is missing: stop, or degrade, so that the others go on under their label.",
    )
    xor_bits_per_byte: Seconds = Field(
        XOR_BITS_PER_BYTE, gt=0, le=8, description="Bits of entropy a byte of an xor mix claims; above 0, at most 8."
    )
    quarantine_pause: Seconds = Field(
        60, gt=0, le=86_400, description="Seconds a source that failed its tests is left alone before its next test."
    )
    health_alpha: str = Field(
        "2^-40", pattern=r"^2\^-(2[0-9]|[3-7][0-9]|80)$", description="How rare a false alarm is to be: 2^-20 to 2^-80."
    )

    fetch_chunk_size: int = Field(
        1024,
        ge=1,
        le=MAX_CHUNK_BYTES,
        validate_default=True,
        description="Bytes asked of a source at a time, and in a chunk; 1 to 1048576.",
    )
    fetch_interval: Seconds = Field(0.1, gt=0, le=3600, description="Seconds between the starts of two fetches.")
    fetch_timeout: Seconds = Field(10, gt=0, le=3600, description="Seconds a source gets to answer.")

    buffer_size: int = Field(
        1 << 20,
        ge=1,
        le=1 << 40,
        validate_default=True,
        description="Bytes that may wait for the gateway; at least fetch_chunk_size.",
    )
    buffer_ttl: Seconds = Field(
        3600, gt=0, le=604_800, description="Seconds bytes may wait for the gateway before they are destroyed."
    )
    overflow: Literal["drop_oldest", "pause"] = Field(
        "drop_oldest",
        description="When bytes no longer fit: destroy the oldest, or pause fetching. With pause, the gateway's"
        " answers influence when sources are read, so information can flow back.",
    )

    allow_plaintext_beyond_loopback: bool = Field(
        False, description="Lets chunks leave this machine without TLS. The entropy then travels readable."
    )
    pools: tuple[PoolTarget, ...] = Field(
        (),
        max_length=MAX_POOLS,
        description="Several pools in place of pool_id and push_url: each with a pool_id, a push_url and, where those"
        " above do not hold for it, TLS files of its own. Each byte goes to one of them.",
    )
    push_url: str | None = Field(
        None,
        validate_default=True,
        description="HOST:PORT of the gateway's listener for collectors. Required, unless there are pools.",
    )
    push_interval: Seconds = Field(0.5, gt=0, le=3600, description="Seconds between the starts of two push calls.")
    push_timeout: Seconds = Field(30, gt=0, le=3600, description="Seconds a push call may take.")
    heartbeat_interval: Seconds = Field(
        10, gt=0, le=3600, description="Seconds from one heartbeat that a pool is sent to the next."
    )
    flush_timeout: Seconds = Field(
        5, ge=0, le=300, description="Seconds that pushing goes on for when the program ends."
    )
    retry_policy: RetryPolicy = Field(
        RetryPolicy(), description="Waits after failures, of sources as well as of push calls."
    )

    health_listen_address: str | None = Field(
        None,
        description="HOST:PORT, on loopback only, where the collector tells over HTTP how it does. Default: nowhere.",
    )
    state_dir: Path = Field(description="Directory for what must survive a restart. Belongs to one collector alone.")
    spool_dir: Path | None = Field(
        None,
        description="Directory where what waits for the gateway is kept on disk too, encrypted, so that a restart does"
        " not lose it. Default: in memory only.",
    )
    spool_key_file: Path | None = Field(
        None,
        validate_default=True,
        description="File of mode 0600 with the key it is encrypted under, from qrng keygen --kind spool. Required with"
        " spool_dir.",
    )
    spool_size: int = Field(
        DEFAULT_SPOOL_BYTES,
        ge=MIN_SPOOL_BYTES,
        le=1 << 42,
        validate_default=True,
        description="Bytes the spool may take on disk; at least 16777216 and four times buffer_size.",
    )
    lock_memory: LockMemory = Field(
        "try",
        description="Whether memory is kept out of swap: try (warn where that is not allowed), require or off.",
    )
    log_level: LogLevel = Field("info", description="The least severe events that are logged.")

    @property
    def key_records(self) -> tuple[KeyRecord, ...]:
        """The keys that may sign, as their file has them now. Raises ConfigError when they cannot be used here."""
        pool_ids = [target.pool_id for target in self.targets]
        records = self.records_for(self.collector_id, pool_ids, self.best_class)
        mistakes = [
            *_not_to_sign_with(records),
            *_not_of(self.collector_id, records),
            *_not_for(pool_ids, records),
            *_not_up_to(self.best_class, records),
        ]
        if mistakes:
            raise ConfigError([f"{self.signing_keys_file}: {mistake}" for mistake in mistakes])
        return records

    @property
    def targets(self) -> tuple[PoolTarget, ...]:
        """The pools it pushes to, whichever way they are given, each with the TLS files that hold for it."""
        pools = self.pools
        if self.pool_id is not None and self.push_url is not None:
            pools = (PoolTarget(pool_id=self.pool_id, push_url=self.push_url),)
        return tuple(pool.with_files_of(self) for pool in pools)

    @property
    def all_appliance_urls(self) -> tuple[str, ...]:
        """The URLs of both settings, each once."""
        single = (self.appliance_url,) if self.appliance_url is not None else ()
        return tuple(dict.fromkeys((*single, *self.appliance_urls)))

    @field_validator("signing_keys_file")
    @classmethod
    def _keys_that_sign(cls, path: Path | None) -> Path | None:
        if path is not None:
            _refuse(_not_to_sign_with(read_key_file(path)))
        return path

    @field_validator("collector_id")
    @classmethod
    def _has_the_keys(cls, collector_id: str, info: ValidationInfo) -> str:
        _refuse(_not_of(collector_id, _listed(info)))
        return collector_id

    @field_validator("best_class")
    @classmethod
    def _keys_may_claim_it(cls, best: SourceClass, info: ValidationInfo) -> SourceClass:
        _refuse(_not_up_to(best, _listed(info)))
        return best

    @field_validator("push_url")
    @classmethod
    def _keys_are_for_it(cls, address: str | None, info: ValidationInfo) -> str | None:
        pool_ids = [pool.pool_id for pool in info.data.get("pools", ())] or [info.data.get("pool_id")]
        _refuse(_not_for([pool_id for pool_id in pool_ids if pool_id is not None], _listed(info)))
        return address

    @property
    def alpha(self) -> float:
        """How rare a false alarm of the health tests is to be."""
        return math.ldexp(1.0, int(self.health_alpha.removeprefix("2^")))

    @field_validator("sources")
    @classmethod
    def _sources_go_together(cls, sources: tuple[AnySource, ...], info: ValidationInfo) -> tuple[AnySource, ...]:
        check_sources(sources, info.data.get("best_class"))
        return sources

    @field_validator("source")
    @classmethod
    def _one_way_to_say_it(cls, kind: SourceKind, info: ValidationInfo) -> SourceKind:
        if kind != "system":
            _no_sources_beside(info)
        return kind

    @field_validator("mixing_strategy")
    @classmethod
    def _can_be_mixed(cls, strategy: MixingStrategy, info: ValidationInfo) -> MixingStrategy:
        entropies = _entropies(info)
        if strategy != "none" and entropies is not None:
            check_mix(entropies)
        if strategy != "none":
            check_own_pace(info.data.get("sources", ()))
        return strategy

    @field_validator("on_missing_leg")
    @classmethod
    def _leg_of_a_mix(cls, choice: str, info: ValidationInfo) -> str:
        if choice == "degrade" and info.data.get("mixing_strategy") == "none":
            raise ValueError("has no effect with mixing_strategy=none")
        return choice

    @field_validator("xor_bits_per_byte")
    @classmethod
    def _some_leg_carries(cls, bits: float, info: ValidationInfo) -> float:
        strategy, entropies = info.data.get("mixing_strategy"), _entropies(info)
        if strategy not in ("xor", None) and bits != XOR_BITS_PER_BYTE:
            raise ValueError("has an effect with mixing_strategy=xor only")
        if strategy == "xor" and entropies and max(entropies) < bits:
            raise ValueError("no source has an assessed_entropy of so many bits a byte")
        return bits

    @field_validator("fetch_chunk_size")
    @classmethod
    def _in_time_for_the_mix(cls, size: int, info: ValidationInfo) -> int:
        strategy = info.data.get("mixing_strategy", "none")
        if strategy != "none":
            check_mix_pace(info.data.get("sources", ()), strategy, size)
        return size

    @field_validator("assessed_entropy")
    @classmethod
    def _of_one_source(cls, bits: float, info: ValidationInfo) -> float:
        if bits != MAX_ENTROPY:
            _no_sources_beside(info)
        return bits

    @field_validator("mock_seed")
    @classmethod
    def _a_seed(cls, seed: int, info: ValidationInfo) -> int:
        if seed:
            _only_with(("mock",), info)
        return seed

    @field_validator("device_id")
    @classmethod
    def _a_device_id(cls, text: str | None, info: ValidationInfo) -> str | None:
        if text is not None:
            _only_with(("http", "device"), info)
            cls._an_id(text)
        return text

    @field_validator("collector_id", "pool_id")
    @classmethod
    def _an_id(cls, text: str | None) -> str | None:
        return text if text is None else checked_id(text)

    @field_validator("appliance_urls", mode="before")
    @classmethod
    def _split(cls, urls: Any) -> Any:
        return tuple(url.strip() for url in urls.split(",")) if isinstance(urls, str) else urls

    @field_validator("appliance_url")
    @classmethod
    def _a_url(cls, url: str | None, info: ValidationInfo) -> str | None:
        if url is not None:
            _only_with(("http",), info)
            appliance_url(url)
        return url

    @field_validator("appliance_urls")
    @classmethod
    def _some_urls(cls, urls: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if urls:
            _only_with(("http",), info)
        elif info.data.get("source") == "http" and info.data.get("appliance_url", "") is None:
            raise ValueError("required with source=http, or appliance_url")
        for url in urls:
            appliance_url(url)
        return urls

    @field_validator("appliance_ca_file")
    @classmethod
    def _a_bundle(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is None:
            return None
        _only_with(("http",), info)
        with about(path):
            _check_bundle(path)
        return path

    @field_validator("appliance_fingerprint")
    @classmethod
    def _a_fingerprint(cls, text: str | None, info: ValidationInfo) -> str | None:
        if text is None:
            return None
        _only_with(("http",), info)
        if info.data.get("appliance_ca_file") is not None:
            raise ValueError("give a CA file or a fingerprint, not both")
        digits = text.replace(":", "").lower()
        if not _FINGERPRINT.fullmatch(digits):
            raise ValueError("expected a SHA-256 of 64 hexadecimal digits")
        return digits

    @field_validator("device_path")
    @classmethod
    def _a_device(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is not None:
            _only_with(("device",), info)
        elif info.data.get("source") == "device":
            raise ValueError("required with source=device")
        return path

    @field_validator("source_class", mode="before")
    @classmethod
    def _known_class(cls, value: Any, info: ValidationInfo) -> Any:
        kind = info.data.get("source")
        if value is not None:
            _no_sources_beside(info)
            return value
        if kind in ("http", "device"):
            raise ValueError(f"required with source={kind}: the class its bytes are to be labelled with")
        # Without a valid kind that mistake is reported already; the weakest class adds no other.
        return FIXED_CLASSES.get(kind or "", SourceClass.SIMULATED)

    @field_validator("source_class")
    @classmethod
    def _honest_class(cls, claimed: SourceClass, info: ValidationInfo) -> SourceClass:
        kind, best = info.data.get("source"), info.data.get("best_class")
        fixed = FIXED_CLASSES.get(kind or "")
        if fixed is not None and claimed is not fixed:
            raise ValueError(f"is always {fixed.value} with source={kind}")
        several = info.data.get("sources")
        if not several and kind is not None and best is not None and not best.at_least(claimed):
            raise ValueError(f"{claimed.value} is better than best_class, so the gateway would take nothing")
        return claimed

    @field_validator("source_custody", mode="before")
    @classmethod
    def _known_custody(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None:
            _no_sources_beside(info)
            return value
        return Custody.REMOTE if info.data.get("source") == "http" else Custody.LOCAL

    @field_validator("source_custody")
    @classmethod
    def _honest_custody(cls, custody: Custody, info: ValidationInfo) -> Custody:
        if custody is Custody.REMOTE:
            _only_with(("http", "device"), info)
        return custody

    @field_validator("spool_dir")
    @classmethod
    def _not_the_state_directory(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is not None and "state_dir" in info.data and path.resolve() == info.data["state_dir"].resolve():
            raise ValueError("must not be state_dir itself")
        return path

    @field_validator("spool_key_file")
    @classmethod
    def _a_spool_key(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        spool_dir = info.data.get("spool_dir")
        if path is None and spool_dir is not None:
            raise ValueError("required with spool_dir")
        if path is not None:
            if "spool_dir" in info.data and spool_dir is None:
                raise ValueError("has no effect without spool_dir")
            read_spool_key(path)
        return path

    @field_validator("spool_size")
    @classmethod
    def _holds_the_buffer(cls, size: int, info: ValidationInfo) -> int:
        if "spool_dir" in info.data and info.data["spool_dir"] is None and size != DEFAULT_SPOOL_BYTES:
            raise ValueError("has no effect without spool_dir")
        if info.data.get("spool_dir") is not None and size < 4 * info.data.get("buffer_size", 0):
            raise ValueError("must be at least four times buffer_size")
        return size

    @field_validator("buffer_size")
    @classmethod
    def _holds_a_chunk(cls, size: int, info: ValidationInfo) -> int:
        if size < info.data.get("fetch_chunk_size", 0):
            raise ValueError("must be at least fetch_chunk_size")
        if any(size < (source.fetch_chunk_size or 0) for source in info.data.get("sources", ())):
            raise ValueError("must be at least the fetch_chunk_size of each source")
        return size

    @field_validator("pools")
    @classmethod
    def _pools_or_a_pool(cls, pools: tuple[PoolTarget, ...], info: ValidationInfo) -> tuple[PoolTarget, ...]:
        pool_id = info.data.get("pool_id", "")
        if pools and pool_id:
            raise ValueError("give pools, or pool_id and push_url, not both")
        if not pools and pool_id is None:
            raise ValueError("required, or pool_id and push_url")
        if len({pool.pool_id for pool in pools}) != len(pools):
            raise ValueError("two of them share a pool_id")
        for pool in pools:
            if pool.push_ca_file is None:
                _no_plaintext_beyond_loopback(pool.push_url, info)
        return pools

    @field_validator("push_url")
    @classmethod
    def _a_gateway(cls, address: str | None, info: ValidationInfo) -> str | None:
        if address is None:
            if info.data.get("pool_id", None) is not None and not info.data.get("pools", True):
                raise ValueError("required with pool_id")
            return None
        if info.data.get("pools"):
            raise ValueError("give pools, or pool_id and push_url, not both")
        return _no_plaintext_beyond_loopback(gateway_address(address), info)

    @field_validator("health_listen_address")
    @classmethod
    def _loopback(cls, address: str | None) -> str | None:
        if not address:
            return None
        host_and_port(address)
        if not is_loopback(address):
            raise ValueError("must be on loopback: who reaches it learns how the sources do")
        return address


def _entropies(info: ValidationInfo) -> list[float] | None:
    """Return the assessed entropy of each source; None when that is not known for mistakes told elsewhere."""
    if not {"sources", "source", "appliance_url", "appliance_urls", "assessed_entropy"} <= info.data.keys():
        return None
    if info.data["sources"]:
        return [source.assessed_entropy for source in info.data["sources"]]
    urls = {info.data["appliance_url"], *info.data["appliance_urls"]} - {None}
    return [info.data["assessed_entropy"]] * max(1, len(urls))


def _listed(info: ValidationInfo) -> tuple[KeyRecord, ...]:
    """Return the records of the file of keys, if there is a usable one."""
    path = info.data.get("signing_keys_file")
    return () if path is None else read_key_file(path)


def _refuse(mistakes: list[str]) -> None:
    if mistakes:
        raise ValueError("; ".join(mistakes))


def _not_to_sign_with(records: tuple[KeyRecord, ...]) -> list[str]:
    """Return a mistake for each record that holds nothing to sign with, and one when all are revoked."""
    mistakes = [f"the key {one.key_id} has no secret or private_key" for one in records if not one.can_sign]
    return mistakes + ["every key in it is revoked"] * all(one.revoked for one in records)


def _not_of(collector_id: str, records: tuple[KeyRecord, ...]) -> list[str]:
    return [f"the key {one.key_id} is another collector's" for one in records if one.collector_id != collector_id]


def _not_for(pool_ids: list[str], records: tuple[KeyRecord, ...]) -> list[str]:
    return [
        f"the key {one.key_id} is not for the pool {pool_id}"
        for pool_id in pool_ids
        for one in records
        if pool_id not in one.pool_ids
    ]


def _not_up_to(best: SourceClass, records: tuple[KeyRecord, ...]) -> list[str]:
    return [
        f"the key {one.key_id} may claim no better than {one.best_class.value}"
        for one in records
        if not one.best_class.at_least(best)
    ]


def _no_sources_beside(info: ValidationInfo) -> None:
    """Refuse a setting of one source where `sources` has them all."""
    if info.data.get("sources"):
        raise ValueError("has no effect with sources")


def _check_bundle(path: Path) -> None:
    """Refuse a file that holds no authorities in PEM. Raises ValueError."""
    try:
        ssl.create_default_context(cafile=path)
    except ssl.SSLError as error:
        raise ValueError(f"cannot be used as a CA bundle ({type(error).__name__})") from None
    except OSError as error:
        raise ValueError(why_unreadable(error)) from None


def _only_with(kinds: tuple[SourceKind, ...], info: ValidationInfo) -> None:
    """Refuse a setting that the chosen kind of source, or those of `sources`, would ignore."""
    _no_sources_beside(info)
    chosen = info.data.get("source")
    if chosen is not None and chosen not in kinds:
        raise ValueError(f"has no effect with source={chosen}; only with source={' or '.join(kinds)}")


def _no_plaintext_beyond_loopback(address: str, info: ValidationInfo) -> str:
    """Return `address`, unless chunks would leave this machine for it in plaintext by mistake."""
    # A CA file that was given and is at fault is reported already.
    plaintext = info.data.get("push_ca_file", "") is None
    if plaintext and not is_loopback(address) and not info.data.get("allow_plaintext_beyond_loopback", True):
        raise ValueError(
            "leaves this machine without TLS: give push_ca_file, or set allow_plaintext_beyond_loopback to true"
        )
    return address
