"""A whole site of real programs: one collector at a source with a ledger, and two gateways with clients.

Idea: the parts outlive their programs. A `Gate` is one gateway's place: its relay, its clients, and the books
of every run that began there; a `Feed` is the same for the collector and its source. Before a program is killed
somebody looks at its books, since a killed program tells nothing any more; what moved between that look and its
end is known from the other side of the wire. So bounds can be given for every run, however it ended.

    captured (known to the source's ledger, to one fetch a run)
      >= stored, and finally refused but for `before_start`, as the gateways last said
       + what the collectors destroyed unsent
    captured
      <= the same, with what was refused as `before_start`, counted once however often it came
       + what was in doubt, and what killed programs took with them:
         the running call of a gateway (its pool is among what it stored), the queue of a collector
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import grpc.aio

from qrng_client import AsyncEntropyClient
from qrng_client.status import Accounting
from qrng_grpc.errors import QrngError
from qrng_grpc.generic_codec import MessageShape
from qrng_grpc.testing.grpc_source import GrpcEntropyServer
from qrng_grpc.testing.relay import RecordedCall, Relay, relaying
from tests.chaos.books import check_collector_line, check_gateway_line, distinct_bytes
from tests.ledger import WORD_BYTES
from tests.programs import CHUNK_BYTES, Laboratory, Program, free_address

GATE_NAMES = ("pool-1", "pool-2")
MOST_WORDS = 200
"""A client's reads are of 1 to so many words."""
_QUICK = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 50),
)
_TRY_AGAIN_S = 0.02
_NO_FLAT_KEY = dict.fromkeys(("hmac_secret_key", "hmac_key_id", "collector_id", "best_class"))
_CLAIM_S = 0.2
"""Seconds a claim waits at a gateway here."""
_SET_ASIDE_BYTES = 4096
"""What a gateway here keeps apart for tests at most, which is soon full."""


@dataclass(eq=False)
class GateRun:
    """One run of a gateway. The books of a killed one are those of the last look at them."""

    program: Program
    started_ns: int
    """Unix time at which it served; what was captured earlier may be refused."""
    first_call: int
    """Where its calls begin among those that the relay recorded."""
    last_call: int | None = None
    """Where they end; None while it runs."""
    replayed: list[RecordedCall] = field(default_factory=list, repr=False)
    """What was played to it besides."""
    received_bytes: int = 0
    """What clients got of it."""
    served_bytes: int | None = None
    """What it says it served; None when it was killed."""
    stored: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    late_bytes: int = 0
    """What may have arrived after the last look, at the most."""

    def looked_at(self, books: Accounting) -> None:
        self.stored, self.refused = books.stored_bytes, dict(books.refused_bytes)

    def ended_politely(self) -> None:
        """Take the books from its accounting line, which balances."""
        line = self.program.accounting
        check_gateway_line(line)
        self.served_bytes, self.stored, self.refused = line["served"], line["stored"], dict(line["refused"])


class Gate:
    """The place of one gateway. Its clients read without a pause, over gRPC and over REST."""

    def __init__(self, lab: Laboratory, keys_file: Path, relay: Relay, programs: AsyncExitStack, rng: Random) -> None:
        self.lab = lab
        self.relay = relay
        self.runs: list[GateRun] = []
        self.served = bytearray()
        """All that clients ever got here."""
        self._programs = programs
        self._rng = rng
        self._keys_file = keys_file
        self._reading = True
        self._late_from = 0
        """Where the calls begin that may have brought something after the last look."""

    @property
    def run(self) -> GateRun:
        """The run under way, or the last."""
        return self.runs[-1]

    async def start(self) -> None:
        """Begin a run."""
        program = await self._programs.enter_async_context(
            self.lab.gateway(
                max_wait=_CLAIM_S,
                quality_reservoir_size=_SET_ASIDE_BYTES,
                signing_keys_file=self._keys_file,
                **_NO_FLAT_KEY,
            )
        )
        self.runs.append(GateRun(program, time.time_ns(), self._first_open_call))

    async def look(self) -> None:
        """Look at its books."""
        self._late_from = self._first_open_call
        self.run.looked_at(await self.lab.accounting())

    async def kill(self) -> None:
        """Kill it, some time after a look at its books."""
        await self.run.program.kill()
        self.run.last_call = len(self.relay.calls)
        self.run.late_bytes = distinct_bytes(self.relay.calls[self._late_from : self.run.last_call])

    async def end(self) -> None:
        """End it politely."""
        assert await self.run.program.end() == 0
        self.run.last_call = len(self.relay.calls)
        self.run.ended_politely()

    async def replay(self, calls: list[RecordedCall]) -> list[RecordedCall]:
        """Play recorded calls here once more, beside all that goes on."""
        self.run.replayed += calls
        return [await self.relay.replay(call) for call in calls]

    async def flows(self) -> None:
        """Wait until the run under way has stored something new."""
        before = (await self.lab.accounting()).stored_bytes
        await self.lab.settled(lambda books: books.stored_bytes > before)

    async def stop_reading(self, readers: Sequence[asyncio.Task[None]]) -> None:
        """Let its clients end, and read what they left."""
        self._reading = False
        await asyncio.gather(*readers)
        self._got(await self.lab.read_all())

    async def read_grpc(self) -> None:
        """Read until `stop_reading`."""
        async with grpc.aio.insecure_channel(self.lab.client_address, options=_QUICK) as channel:
            client = AsyncEntropyClient(api_key=self.lab.api_key, channel=channel)
            while self._reading:
                try:
                    self._got((await client.get(self._size())).data)
                except QrngError:
                    await asyncio.sleep(_TRY_AGAIN_S)

    async def read_rest(self) -> None:
        """Read until `stop_reading`."""
        url = f"http://{self.lab.rest_address}/api/random"
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {self.lab.api_key}"}) as http:
            while self._reading:
                try:
                    async with http.get(url, params={"bytes": self._size(), "encoding": "raw"}) as reply:
                        reply.raise_for_status()
                        self._got(await reply.read())
                except aiohttp.ClientError:
                    await asyncio.sleep(_TRY_AGAIN_S)

    def books(self) -> tuple[int, int]:
        """Return the least and the most captured bytes that its runs account for."""
        surely = sum(run.stored + sum(run.refused.values()) - before_start(run) for run in self.runs)
        perhaps = sum(min(before_start(run), self._from_before(run)) for run in self.runs)
        return surely, surely + perhaps + sum(run.late_bytes for run in self.runs)

    def _from_before(self, run: GateRun) -> int:
        """Return the bytes of the chunks that `run` was sent and that were captured before it, each counted once."""
        calls = [*self.relay.calls[run.first_call : run.last_call], *run.replayed]
        return distinct_bytes(calls, captured_until_ns=run.started_ns)

    @property
    def _first_open_call(self) -> int:
        """Where the calls that are not over begin among those recorded."""
        calls = self.relay.calls
        return next((place for place, call in enumerate(calls) if not call.over), len(calls))

    def _size(self) -> int:
        return WORD_BYTES * self._rng.randint(1, MOST_WORDS)

    def _got(self, data: bytes) -> None:
        self.served += data
        self.run.received_bytes += len(data)


@dataclass(eq=False)
class FeedRun:
    """One run of the collector. `least` and `most` bound what it captured."""

    program: Program
    status_url: str
    delivered_before: int
    least: int = 0
    most: int = 0
    destroyed: int = 0
    """Bytes it destroyed that were never sent."""
    in_doubt: int = 0
    lost_bytes: int = 0
    """What may have been in its queue when it was killed, at the most."""


class Feed:
    """The place of the collector, and the source it reads, whose ledger says what was captured."""

    def __init__(self, gates: list[Gate], source: GrpcEntropyServer, programs: AsyncExitStack, rng: Random) -> None:
        self.runs: list[FeedRun] = []
        self._gates = gates
        self._source = source
        self._programs = programs
        self._rng = rng
        self._look: dict[str, Any] = {}

    @property
    def run(self) -> FeedRun:
        """The run under way, or the last."""
        return self.runs[-1]

    @property
    def delivered_bytes(self) -> int:
        return len(self._source.served)

    async def start(self) -> None:
        """Begin a run, with a large queue or one that soon overflows."""
        address, delivered = free_address(), self.delivered_bytes
        settings = self._settings | {"buffer_size": self._rng.choice((48 << 10, 8 << 20))}
        program = await self._programs.enter_async_context(
            self._gates[0].lab.collector(health_listen_address=address, **settings)
        )
        await program.event("source_trusted")
        self.runs.append(FeedRun(program, f"http://{address}/status", delivered))

    async def look(self) -> None:
        """Look at its books."""
        async with aiohttp.ClientSession() as http, http.get(self.run.status_url) as reply:
            self._look = await reply.json()

    async def kill(self) -> None:
        """Kill it, some time after a look at its books."""
        await self.run.program.kill()
        await self._close_ledger()
        self._take(self._look["accounting"])
        queued = self._look["queue"]["queued_bytes"]
        self.run.lost_bytes = queued + self.run.most - self._look["accounting"]["captured"]

    async def end(self) -> None:
        """End it politely: then it knows to the byte what it captured, and the ledger agrees."""
        assert await self.run.program.end() == 0
        line = self.run.program.accounting
        check_collector_line(line)
        await self._close_ledger()
        assert self.run.least <= line["captured"] <= self.run.most
        self.run.least = self.run.most = line["captured"]
        self._take(line)

    def books(self) -> tuple[int, int]:
        """Return the least and the most captured bytes that its runs account for, without what arrived."""
        destroyed = sum(run.destroyed for run in self.runs)
        return destroyed, destroyed + sum(run.in_doubt + run.lost_bytes for run in self.runs)

    async def _close_ledger(self) -> None:
        """Bound what the run captured: what the source gave it, but for its start-up test and a last reply."""
        used = (await self.run.program.event("source_trusted"))["start_up_bytes"]
        self.run.most = self.delivered_bytes - self.run.delivered_before - used
        self.run.least = self.run.most - CHUNK_BYTES

    def _take(self, books: dict[str, Any]) -> None:
        self.run.destroyed = books["expired"] + books["overflow"] + books["dropped_at_shutdown"]
        self.run.in_doubt = books["in_doubt"]

    @property
    def _settings(self) -> dict[str, Any]:
        """What is different from the collector of one laboratory: two pools, and our source."""
        pools = [{"pool_id": gate.lab.pool_id, "push_url": gate.relay.address} for gate in self._gates]
        source = {
            "kind": "grpc",
            "address": self._source.address,
            "data_field": 1,
            "source_class": "simulated",
            "device_id": "ledger",
            "custody": "local",
        }
        paces = {"fetch_interval": 0.004, "push_interval": 0.05, "push_timeout": 2, "flush_timeout": 0.5}
        one_pool = dict.fromkeys(("pool_id", "push_url", "source"))
        return {
            "pools": json.dumps(pools),
            "sources": json.dumps([source]),
            **paces,
            "heartbeat_interval": 0.2,
            **one_pool,
        }


@dataclass(frozen=True)
class Site:
    """Everything, running."""

    gates: list[Gate]
    feed: Feed
    readers: dict[Gate, list[asyncio.Task[None]]]
    """The clients of each gate."""

    @property
    def served(self) -> bytes:
        """All that clients ever got."""
        return b"".join(bytes(gate.served) for gate in self.gates)

    async def end(self) -> None:
        """End politely: the collector first, the gateways once their clients have read all there is."""
        await self.feed.end()
        for gate in self.gates:
            await gate.stop_reading(self.readers[gate])
            await gate.end()

    def check_bounds(self) -> None:
        """Check that what was captured lies within what all runs account for.

        Whatever a gateway that ended politely says it served, clients have.
        """
        for run in (run for gate in self.gates for run in gate.runs if run.served_bytes is not None):
            assert run.served_bytes == run.received_bytes
        books = [self.feed.books(), *(gate.books() for gate in self.gates)]
        captured_least, captured_most = (sum(getattr(run, end) for run in self.feed.runs) for end in ("least", "most"))
        assert sum(least for least, _ in books) <= captured_most
        assert captured_least <= sum(most for _, most in books)


@asynccontextmanager
async def whole_site(directory: Path, rng: Random) -> AsyncIterator[Site]:
    """Run a site while the block runs: two gateways whose pools one key may serve, their clients, and one collector."""
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(GrpcEntropyServer(MessageShape(data_field=1)))
        gates = []
        keys_file = _keys_file(directory / "keys.json", labs := _laboratories(directory))
        for lab in labs:
            relay = await stack.enter_async_context(relaying(free_address(), lab.push_address))
            gates.append(Gate(lab, keys_file, relay, stack, rng))
        feed = Feed(gates, source, stack, rng)
        await asyncio.gather(*(gate.start() for gate in gates))
        await feed.start()
        yield Site(gates, feed, await stack.enter_async_context(_reading(gates)))


def before_start(run: GateRun) -> int:
    return run.refused.get("before_start", 0)


def _laboratories(directory: Path) -> list[Laboratory]:
    """Return one laboratory a gateway. They have one key, each with its own pool in the record."""
    first = Laboratory(directory)
    labs = []
    for name in GATE_NAMES:
        (directory / name).mkdir()
        record = replace(first.record, pool_ids=frozenset((name,)))
        labs.append(Laboratory(directory / name, record=record))
    return labs


def _keys_file(path: Path, labs: list[Laboratory]) -> Path:
    """Write the key that all of them know, which may fill the pool of each."""
    record = labs[0].record
    entry = {
        "id": record.key_id,
        "algorithm": "hmac-sha256",
        "secret": record.secret.decode(),
        "collector_id": record.collector_id,
        "pool_ids": [lab.pool_id for lab in labs],
        "best_class": record.best_class.value,
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps({"keys": [entry]}))
    return path


@asynccontextmanager
async def _reading(gates: list[Gate]) -> AsyncIterator[dict[Gate, list[asyncio.Task[None]]]]:
    """Let clients read while the block runs, each over a connection of its own."""
    readers = {gate: [asyncio.create_task(read()) for read in (gate.read_grpc, gate.read_rest)] for gate in gates}
    try:
        yield readers
    finally:
        for task in (task for tasks in readers.values() for task in tasks):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
