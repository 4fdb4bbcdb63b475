"""The desk: what every call passes, whichever front end it came in by.

Idea: a front end opens a `Call` and closes it with the status it ended with; between the two the call answers, in this
order, what decides over a request. Is its address one that guesses keys? Who is it? May they call this? Have
they sent too many requests? Is there room in their rate and in today's quota? Then it claims, gives back what it
charged when that fails, and remembers what was handed out, for the counters and for the audit log.

Nothing here knows gRPC or HTTP, and a call that is served costs a handful of look-ups and additions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from qrng_gateway.admission.access import Access, Pass
from qrng_gateway.admission.addresses import Network, address_of, caller_address
from qrng_gateway.admission.audit import AuditLog, Entry, Event
from qrng_gateway.admission.guard import Guard
from qrng_gateway.admission.limits import Charge, Limiter
from qrng_gateway.dispenser import Demand, Dispenser
from qrng_gateway.observation.metrics import CallCounts
from qrng_gateway.pool.claims import Claimed, Pack, ReplyLabel, as_they_are
from qrng_grpc.client_keys import Client
from qrng_grpc.clock import SYSTEM_CLOCK, Clock
from qrng_grpc.errors import AuthenticationError, ForbiddenError
from qrng_grpc.labels import Processing, SourceClass, weakest_class, weakest_processing


class Desk:
    """Who decides and who keeps count.

    `access` knows who may come in, and whether they still may; `guard` limits addresses that bring wrong keys.
    """

    def __init__(
        self,
        access: Access,
        dispenser: Dispenser,
        limiter: Limiter,
        guard: Guard,
        counts: CallCounts,
        audit: AuditLog,
        *,
        trusted_proxies: tuple[Network, ...] = (),
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.access = access
        self.dispenser = dispenser
        self.limiter = limiter
        self.guard = guard
        self.counts = counts
        self.audit = audit
        self.trusted_proxies = trusted_proxies
        self.clock = clock
        self.lasting: dict[Call, asyncio.Task[Any]] = {}
        """The calls that `end_withdrawn` can end, and who serves them."""

    def open(self, method: str, peer: str) -> Call:
        """Begin a call of `method`, as `METHODS` names it, by `peer`, as grpc does."""
        return Call(self, method, peer)

    def end_withdrawn(self) -> None:
        """End the streams, and the calls that wait for bytes, of whoever is not to be served any more.

        To be called after a reload, and now and then, since access also ends with time.
        """
        for call, task in tuple(self.lasting.items()):
            try:
                call.look_again()
            except AuthenticationError as refusal:
                del self.lasting[call]
                call.refusal = refusal
                task.cancel()


class _Lasting:
    """Lets `Desk.end_withdrawn` end `call` within the block, which then raises AuthenticationError."""

    __slots__ = ("_call", "_desk", "_task")

    def __init__(self, desk: Desk, call: Call) -> None:
        self._desk = desk
        self._call = call
        task = asyncio.current_task()
        assert task is not None, "a handler runs in a task"  # noqa: S101
        self._task = task

    def __enter__(self) -> None:
        self._desk.lasting[self._call] = self._task

    def __exit__(self, kind: type[BaseException] | None, *_raised: object) -> None:
        self._desk.lasting.pop(self._call, None)
        refusal = self._call.refusal
        if refusal is None or kind is not asyncio.CancelledError:
            return
        # Others may have cancelled it too, a client that left or a server that ends: theirs counts.
        if self._task.uncancel() == 0:
            raise refusal from None


class Call:
    """One call, from its arrival to its end."""

    __slots__ = (
        "_address",
        "_began_s",
        "_bytes",
        "_desk",
        "_messages",
        "_paid",
        "_processing",
        "_scarce",
        "_source_class",
        "_stream",
        "_worth_a_line",
        "client",
        "method",
        "passed",
        "peer",
        "refusal",
    )

    passed: Pass
    """What let it in; from `admit` on."""
    client: Client
    """Who calls; from `admit` on."""

    def __init__(self, desk: Desk, method: str, peer: str) -> None:
        self.method = method
        self.peer = peer
        self._desk = desk
        self._began_s = perf_counter()
        self._bytes = self._messages = 0
        self._source_class: SourceClass | None = None
        self._processing: Processing | None = None
        self._stream: int | None = None
        self._worth_a_line = False
        self._paid = False
        self._scarce = False
        self.refusal: AuthenticationError | None = None
        """Why the desk ended it before its time."""

    def admit(self, identify: Callable[[], Pass], forwarded_for: str | None = None) -> None:
        """Let the call in, as one request of the client that `identify` lets in.

        `forwarded_for` is what a proxy says whom it speaks for. Raises what `identify` raises, LimitError, and
        ForbiddenError when the client may not call this method.
        """
        desk = self._desk
        self._address = address = origin = address_of(self.peer)
        if forwarded_for:
            self._address = origin = caller_address(self.peer, forwarded_for, desk.trusted_proxies)
        # The guard may tell connections of one address apart, but not those of a proxy, which serves many.
        if origin == address:
            origin = self.peer
        desk.guard.check(origin)
        self._worth_a_line = True
        try:
            self.passed = passed = identify()
        except AuthenticationError:
            desk.guard.blame(origin)
            raise
        desk.guard.trust(origin)
        self.client = client = passed.client
        self._scarce = desk.limiter.admit(client, self._address)  # before the method: what is forbidden is not free
        self._paid = True
        if client.methods is not None and not client.allows(self.method):
            raise ForbiddenError("this client may not call this method")

    @property
    def least_class(self) -> SourceClass:
        """The weakest class that this client is served, whatever it asks for."""
        return self._desk.dispenser.least_class_for(self.client)

    async def next_request(self) -> None:
        """Count one more request on a stream, when there is room for it; the first was counted when it was opened.

        Raises AuthenticationError once the client is not to be served any more.
        """
        if self._paid:
            self._paid = False
            return
        self.look_again()
        limiter, client = self._desk.limiter, self.client
        if limiter.admit_more(client, self._address):
            return
        charge = limiter.pace_request(client)
        try:
            wait_s = charge.wait_s or limiter.turn_s(self._address)
            while wait_s:
                await asyncio.sleep(wait_s)
                wait_s = limiter.turn_s(self._address)
        except BaseException:
            limiter.refund_request(client, charge)
            raise

    def dispense_now(self, demand: Demand, *, limit: int, pack: Pack = as_they_are) -> Claimed | None:
        """Claim what `demand` asks for, and charge it to the client, if nothing needs to be waited for; else None.

        What has to be waited for is bytes and, for an open stream, a rate. Raises as `dispense`, for an open stream as
        `dispense_in_time`.
        """
        streams = self._stream is not None
        if streams:
            self.look_again()
        desk, client = self._desk, self.client
        demand.check(limit, client.limits.bytes_per_day)
        charge = desk.limiter.charge(client, demand.size, paced=streams)
        claimed = None
        try:
            if not charge.wait_s:
                claimed = desk.dispenser.dispense_now(demand, client, pack)
        finally:
            if claimed is None:
                desk.limiter.refund(client, charge)
        if claimed is not None:
            self._remember(demand.size, charge, claimed.label)
        return claimed

    async def dispense(
        self, demand: Demand, *, limit: int, time_left_s: float | None, pack: Pack = as_they_are
    ) -> Claimed:
        """Claim what `demand` asks for, waiting for it; it is charged to the client, unless it fails.

        Raises LimitError when a rate or the quota has no room for it, AuthenticationError when the client is not to be
        served any more before it is its turn, else as `Dispenser.dispense`.
        """
        desk, client = self._desk, self.client
        demand.check(limit, client.limits.bytes_per_day)
        charge = desk.limiter.charge(client, demand.size)
        try:
            with _Lasting(desk, self):
                claimed = await desk.dispenser.dispense(demand, client, time_left_s, pack)
        except BaseException:
            desk.limiter.refund(client, charge)
            raise
        self._remember(demand.size, charge, claimed.label)
        return claimed

    async def dispense_in_time(
        self, demand: Demand, *, limit: int, time_left_s: float | None, pack: Pack = as_they_are
    ) -> Claimed:
        """Claim for a stream, as `dispense`, but wait until a rate has room rather than refuse.

        Raises AuthenticationError once the client is not to be served any more.
        """
        self.look_again()
        desk, client = self._desk, self.client
        demand.check(limit, client.limits.bytes_per_day)
        charge = desk.limiter.charge(client, demand.size, paced=True)
        try:
            if charge.wait_s:
                await asyncio.sleep(charge.wait_s)
                self.look_again()
                time_left_s = None if time_left_s is None else time_left_s - charge.wait_s
            claimed = await desk.dispenser.dispense(demand, self.client, time_left_s, pack)
        except BaseException:
            desk.limiter.refund(self.client, charge)
            raise
        self._remember(demand.size, charge, claimed.label)
        return claimed

    def look_again(self) -> None:
        """Take the client as its record is now. Raises AuthenticationError when it is not to be served any more."""
        self.passed = passed = self._desk.access.current(self.passed)
        self.client = passed.client

    def check_stream(self) -> None:
        """Refuse a stream that `streaming` would refuse now. Raises LimitError."""
        self._desk.limiter.check_stream(self.client)

    @contextmanager
    def streaming(self) -> Iterator[None]:
        """Be one of the client's open streams within the block.

        Raises LimitError when it has too many, AuthenticationError once the client is not to be served any more.
        """
        desk = self._desk
        with desk.limiter.stream(self.client), _Lasting(desk, self):
            self._stream = desk.audit.new_stream()
            self._write("opened", None)
            yield

    def allowances(self) -> tuple[tuple[str, str], ...]:
        """Return what the client has left, as metadata of its reply; nothing before it is admitted."""
        if not hasattr(self, "client"):
            return ()
        left = self._desk.limiter.remaining(self.client)
        requests = ("qrng-requests-left", str(left.requests))
        if left.bytes_today is None:
            return (requests,)
        return (requests, ("qrng-bytes-left-today", str(left.bytes_today)))

    def scarce_allowances(self) -> tuple[tuple[str, str], ...]:
        """Return what the client has left, as metadata of its reply, when any of it is less than half; else nothing.

        For replies that pass by the thousand: metadata costs more than most of what else is done for one.
        """
        if self._stream is not None and not self._scarce:  # its later requests are not looked at one by one
            self._scarce = self._desk.limiter.is_scarce(self.client)
        return self.allowances() if self._scarce else ()

    def close(self, status: str) -> None:
        """End the call: `status` is the name of a gRPC status or the number of an HTTP one."""
        self._desk.counts.note(self.method, status, perf_counter() - self._began_s)
        if self._worth_a_line:
            self._write("call" if self._stream is None else "ended", status)

    def _remember(self, size: int, charge: Charge, label: ReplyLabel) -> None:
        self._bytes += size
        self._messages += 1
        if charge.scarce:
            self._scarce = True
        if self._source_class is None:
            self._source_class, self._processing = label.source_class, label.processing
            return
        if label.source_class is not self._source_class:
            self._source_class = weakest_class((self._source_class, label.source_class))
        if label.processing is not self._processing:
            self._processing = weakest_processing(filter(None, (self._processing, label.processing)))

    def _write(self, event: Event, status: str | None) -> None:
        audit = self._desk.audit
        if audit.enabled:
            client_id = self.client.client_id if hasattr(self, "client") else None
            audit.note(
                Entry(
                    self._desk.clock.now_ns(),
                    event,
                    client_id,
                    self.method,
                    self.peer,
                    self._bytes,
                    self._messages,
                    status,
                    self._source_class,
                    self._processing,
                    self._stream,
                )
            )
