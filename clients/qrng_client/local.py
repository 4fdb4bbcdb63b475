"""Sources that need no server, for threads.

Idea: the kinds a client may name are those of `qrng_grpc.sources`, read where they are asked for: the operating
system's generator, this processor's timing, and a seeded stream that is for tests and says so.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from qrng_client.settings import SourceKind
from qrng_grpc.sources.jitter import BLOCK_BYTES, WorkTimer, collect_block
from qrng_grpc.sources.mock import SeededStream


def local_bytes(kind: SourceKind, seed: int) -> Callable[[int], bytes]:
    """Return what reads bytes of `kind`; `seed` is that of mock_uniform. It raises SourceError."""
    if kind == "timing_noise":
        return _taking_turns(_timing())
    if kind == "mock_uniform":
        return _taking_turns(SeededStream(seed).take)
    return os.urandom


def _timing() -> Callable[[int], bytes]:
    timer = WorkTimer()

    def read(n: int) -> bytes:
        blocks = [collect_block(timer.sample) for _ in range(-(-n // BLOCK_BYTES))]
        return b"".join(blocks)[:n]

    return read


def _taking_turns(read: Callable[[int], bytes]) -> Callable[[int], bytes]:
    lock = threading.Lock()

    def read_alone(n: int) -> bytes:
        with lock:
            return read(n)

    return read_alone
