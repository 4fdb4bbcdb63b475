"""How a collector's sources go together.

Idea: each entry of `sources` is checked by its own kind (`qrng_grpc.sources.kinds`). Here is what concerns several
of them, or one of them and the collector: that none is there twice or claims too much, and that a mix can be made of
them in time.
"""

from __future__ import annotations

from collections.abc import Sequence

from qrng_grpc.chunk import MAX_DEVICE_IDS
from qrng_grpc.labels import SourceClass
from qrng_grpc.sources.kinds import SourceSettings
from qrng_grpc.sources.mixing import LONGEST_LEG_TIMEOUT_S, MixingStrategy, hkdf_input_bytes


def check_sources(sources: Sequence[SourceSettings], best_class: SourceClass | None) -> None:
    """Raise ValueError unless each source is there once, and none is better than what the key may claim."""
    device_ids = [source.label_device_id for source in sources]
    if len(set(device_ids)) < len(device_ids):
        raise ValueError("two of them share a device_id, or are the same source")
    if len({source.origin for source in sources}) < len(sources):
        raise ValueError("two of them are the same source under two names")
    for source in sources:
        if best_class is not None and not best_class.at_least(source.label_class):
            raise ValueError(
                f"{source.label_device_id}: {source.label_class.value} is better than best_class,"
                " so the gateway would take nothing"
            )


def check_mix(entropies: Sequence[float]) -> None:
    """Raise ValueError when so many sources cannot be mixed."""
    if not 2 <= len(entropies) <= MAX_DEVICE_IDS:
        raise ValueError(f"a mix takes 2 to {MAX_DEVICE_IDS} sources")


def mix_requests(source: SourceSettings, strategy: MixingStrategy, size: int) -> int:
    """Return how many requests a source takes for its part in `size` mixed bytes; with `concat`, for all of them."""
    needed = hkdf_input_bytes(size, source.assessed_entropy) if strategy == "hkdf" else size
    return -(-needed // source.most_bytes)


def check_mix_pace(sources: Sequence[SourceSettings], strategy: MixingStrategy, size: int) -> None:
    """Raise ValueError when a mix would have to wait for a source longer than it can."""
    for source in sources:
        requests = mix_requests(source, strategy, size)
        if (requests + 1) * source.request_interval > LONGEST_LEG_TIMEOUT_S:
            raise ValueError(
                f"{source.label_device_id}: so many mixed bytes take {requests} requests of it,"
                " which request_interval spreads over more than a day"
            )


def check_own_pace(sources: Sequence[SourceSettings]) -> None:
    """Raise ValueError when a source of a mix is given a size or interval: the mix asks all its sources at once."""
    for source in sources:
        if source.fetch_chunk_size is not None or source.fetch_interval is not None:
            raise ValueError(f"{source.label_device_id}: in a mix, fetch_chunk_size and fetch_interval have no effect")
