"""Whether time tells a guesser how near a key is, through a real gateway: a test of Welch's t.

Idea: the gateway runs in a process of its own with a thousand clients; this one presents guesses to it over gRPC on
one connection, in random order, and times the refusals. `bench/authentication.py` puts the same question to
`Access.identify` alone, where nanoseconds are seen; here everything between a guesser and the comparison is in
the times, as it would be for him at the very best place, on the same machine. So that the guard does not end the test
after sixteen guesses, the gateway trusts a proxy at this address, and each guess comes from another caller: the
guesser whom the guard cannot stop has as many addresses as guesses.

Refusals that took longer than nine in ten are left out, of all kinds by the same time: they tell of the machine.
(Right keys have a time of their own for that.) Two kinds differ from |t| = 4.5 on, as in tests of leakage. So that
finding nothing is worth something, *right* keys are presented too, and must be found out; and the smallest
difference that would have been noticed is told.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from authentication import CLIENTS, kinds_of_guess
from numpy.typing import NDArray

from qrng_grpc.client_keys import Client, ClientRecord, KeyDigest, changing_client_file, digest_of, new_key
from qrng_grpc.logs import configure_logs
from qrng_grpc.testing.gateway import running_gateway
from qrng_grpc.v1.entropy_pb2 import GetEntropyRequest
from qrng_grpc.v1.entropy_pb2_grpc import EntropyServiceStub

DIFFERENT = 4.5
"""From which |t| on two kinds are told apart."""
KEPT = 0.9
"""The share of times, the shortest, that count."""
RIGHT, WRONG = "right", "wrong 0"
Times = dict[str, NDArray[np.float64]]


def main() -> int:
    """Measure, print how each kind differs from wrong keys, and say whether time tells them apart."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    arguments.add_argument("--calls", type=int, default=6000, help="guesses of each kind (6000)")
    chosen = arguments.parse_args()
    if chosen.serve is not None:
        asyncio.run(serve(chosen.serve))
        return 0
    keys, revoked = ([new_key() for _ in range(CLIENTS)] for _ in range(2))
    guesses = kinds_of_guess(keys, revoked)
    kinds = {name: guesses[name] for name in (WRONG, "wrong 1", "half right", "nearly right", "revoked")} | {
        RIGHT: keys
    }
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "clients.yaml"
        write_clients(file, keys, revoked)
        with serving(file) as address, grpc.insecure_channel(address) as channel:
            return report(measured(kinds, EntropyServiceStub(channel), chosen.calls))


def report(times: Times) -> int:
    """Print each kind's difference from wrong keys. Returns 1 when one is told apart, or right keys are not."""
    longest = float(np.quantile(np.concatenate([times[kind] for kind in times if kind != RIGHT]), KEPT))
    wrong = times[WRONG][times[WRONG] <= longest]
    print(f"a wrong key is refused in {wrong.mean():.1f} us, {len(wrong)} counted")
    told_apart = set()
    for kind, taken in times.items():
        if kind == WRONG:
            continue
        kept = taken[taken <= (np.quantile(taken, KEPT) if kind == RIGHT else longest)]
        error = float((kept.var(ddof=1) / len(kept) + wrong.var(ddof=1) / len(wrong)) ** 0.5)
        more = float(kept.mean() - wrong.mean())
        print(f"  {kind:<14}{more:>+9.2f} us   t = {more / error:>+8.2f}   {DIFFERENT * error:.2f} us would be noticed")
        if abs(more / error) >= DIFFERENT:
            told_apart.add(kind)
    print(f"told apart from a wrong key: {', '.join(sorted(told_apart)) or 'nothing'}; right keys must be, no others")
    return int(told_apart != {RIGHT})


def measured(kinds: dict[str, list[str]], stub: EntropyServiceStub, calls: int) -> Times:
    """Return how long each kind of guess took, in microseconds."""
    plan = list(kinds) * calls
    random.shuffle(plan)
    taken: dict[str, list[float]] = {kind: [] for kind in kinds}
    ask: Callable[..., Any] = stub.GetEntropy
    request = GetEntropyRequest(bytes_needed=1)
    for number, kind in enumerate(plan):
        guess = random.choice(kinds[kind])  # noqa: S311 - it chooses what to measure
        caller = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        metadata = (("api-key", guess), ("x-forwarded-for", caller))
        began = time.perf_counter()
        code = grpc.StatusCode.OK
        try:
            ask(request, metadata=metadata)
        except grpc.RpcError as error:
            took = time.perf_counter() - began
            code = error.code()
        else:
            took = time.perf_counter() - began
        if (code is grpc.StatusCode.UNAUTHENTICATED) is (kind == RIGHT):
            raise RuntimeError(f"a {kind} key was answered with {code.name}")
        taken[kind].append(took * 1e6)
    warm = calls // 10
    return {kind: np.array(times[warm:]) for kind, times in taken.items()}


def write_clients(file: Path, keys: list[str], revoked: list[str]) -> None:
    """Write a record for each key."""
    with changing_client_file(file) as records:
        for number, key in enumerate(keys + revoked):
            digest = KeyDigest(digest_of(key))
            records.append(ClientRecord(Client(f"client-{number}"), (digest,), revoked=number >= len(keys)))


@contextmanager
def serving(file: Path) -> Iterator[str]:
    """Run a gateway for the clients of `file` as a process of its own; yields its address."""
    with subprocess.Popen(
        [sys.executable, __file__, "--serve", str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


async def serve(file: Path) -> None:
    """Serve until the input ends."""
    configure_logs("warning", "bench")
    async with running_gateway(api_keys_file=file, trusted_proxies=("127.0.0.1",), max_wait=0) as gateway:
        await gateway.push(random.randbytes(1 << 20))  # noqa: S311 - right keys get something
        print(gateway.client_address, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    sys.exit(main())
