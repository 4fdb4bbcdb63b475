"""What the tests here ask of recordings and of accounting lines."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import grpc.aio

from qrng_client.status import Accounting
from qrng_grpc.chunk import Chunk, Heartbeat, Identity
from qrng_grpc.testing.relay import RecordedCall, Relay
from qrng_grpc.v1.push_pb2 import PushChunksRequest
from qrng_grpc.wire import decode_chunk
from tests.ledger import Ledger
from tests.programs import Laboratory, Program

FOREVER_NS = 1 << 63
ROOMY: dict[str, Any] = {"buffer_size": 64 << 20, "flush_timeout": 60}
"""A queue that does not overflow while a gateway starts, and is flushed, however slowly; losses are another test's."""
WIDE: dict[str, Any] = {"buffer_size": 64 << 20}
"""A pool that does not overflow, however long nobody reads it."""


@dataclass(frozen=True)
class Replayed:
    """What became of recorded calls that were played again."""

    before: Accounting
    after: Accounting
    refusals: list[str]
    """The statuses of the calls that did not end OK."""

    @property
    def stored_bytes(self) -> int:
        return self.after.stored_bytes - self.before.stored_bytes

    @property
    def duplicates(self) -> int:
        return self.after.duplicate_chunks - self.before.duplicate_chunks

    @property
    def before_start_bytes(self) -> int:
        return before_start(self.after) - before_start(self.before)


async def replay(lab: Laboratory, calls: list[RecordedCall]) -> Replayed:
    """Play each of `calls` once more, straight to the gateway, which nobody else pushes to meanwhile."""
    before, refusals = await lab.accounting(), []
    for call in calls:
        try:
            await lab.push(call.requests)
        except grpc.aio.AioRpcError as error:
            refusals.append(error.code().name)
    return Replayed(before, await lab.accounting(), refusals)


async def stopped_mid_push(lab: Laboratory, relay: Relay, *, stored_bytes: int, messages: int) -> Accounting:
    """Stop a call in its middle, `messages` on, once so much is stored.

    Returns the gateway's books when all that came through has taken effect.
    """
    await lab.settled(lambda books: books.stored_bytes >= stored_bytes)
    relay.stop_after(messages)
    await relay.stopped.wait()
    arrived = distinct_bytes(relay.calls)
    return await lab.settled(lambda books: books.stored_bytes + before_start(books) == arrived)


def before_start(books: Accounting) -> int:
    return books.refused_bytes.get("before_start", 0)


async def ledger_of(*seeds: int, read_by: Program, captured: int) -> Ledger:
    """Return the ledger of collectors that read the streams of `seeds`, `captured` bytes at most of each.

    `read_by` is one of them; what a stream begins with was used up by its start-up test, as by those of the others.
    """
    used: int = (await read_by.event("source_trusted"))["start_up_bytes"]
    return Ledger(*seeds, stream_bytes=used + captured)


def identities(calls: list[RecordedCall]) -> list[tuple[int, int]]:
    """Return epoch and sequence of every chunk and heartbeat in `calls`, as often as it was sent."""
    return [_place(one) for one in _sent(calls)]


def sent_chunks(calls: list[RecordedCall]) -> list[bytes]:
    """Return the data of every chunk in `calls`, each once."""
    return list({one.identity: bytes(one.block.data) for one in _sent(calls) if isinstance(one, Chunk)}.values())


def sent_bytes(calls: list[RecordedCall]) -> int:
    """Return the bytes of the chunks in `calls`, each counted as often as it was sent."""
    return sum(len(one.block) for one in _sent(calls) if isinstance(one, Chunk))


def distinct_bytes(calls: list[RecordedCall], *, captured_until_ns: int = FOREVER_NS) -> int:
    """Return the bytes of the chunks in `calls` whose capture began no later, each counted once."""
    chunks = [one for one in _sent(calls) if isinstance(one, Chunk) and one.block.capture_start_ns <= captured_until_ns]
    return sum({one.identity: len(one.block) for one in chunks}.values())


def check_not_sent_again(calls: list[RecordedCall]) -> None:
    """Check that nothing was sent after its collector had heard that it is disposed of, and no heartbeat twice."""
    disposed: set[Identity] = set()
    beats: Counter[Identity] = Counter()
    for call in calls:
        sent = _sent([call])
        assert disposed.isdisjoint(one.identity for one in sent)
        disposed.update(one.identity for one in sent[: call.disposed or 0])
        beats.update(one.identity for one in sent if isinstance(one, Heartbeat))
    assert set(beats.values()) <= {1}


def check_gateway_line(line: dict[str, Any]) -> None:
    """Check that a gateway's books balance."""
    parts = ("served", "pooled", "expired", "overflow", "purged", "set_aside", "conditioned", "dropped_at_shutdown")
    assert line["stored"] == sum(line[part] for part in parts)


def check_running_books(books: Accounting) -> None:
    """Check that the books of a gateway at rest balance while it runs."""
    assert books.dropped_at_shutdown_bytes == 0
    assert books.stored_bytes == (
        books.served_bytes
        + books.pooled_bytes
        + books.expired_bytes
        + books.overflow_bytes
        + books.purged_bytes
        + books.set_aside_bytes
        + books.conditioned_bytes
    )


def check_collector_line(line: dict[str, Any]) -> None:
    """Check that a collector's books balance."""
    parts = ("disposed", "queued", "expired", "overflow", "in_doubt", "dropped_at_shutdown", "spooled")
    assert line["captured"] + line["recovered"] == sum(line[part] for part in parts)


def taken(line: dict[str, Any], *, replayed: int = 0) -> int:
    """Return the bytes a gateway disposed of, without those it refused when calls were `replayed`."""
    return int(line["stored"] + sum(line["refused"].values()) - replayed)


def _sent(calls: list[RecordedCall]) -> list[Chunk | Heartbeat]:
    return [decode_chunk(PushChunksRequest.FromString(r).signed_chunk.chunk) for c in calls for r in c.requests]


def _place(one: Chunk | Heartbeat) -> tuple[int, int]:
    return one.identity.epoch, one.identity.sequence
