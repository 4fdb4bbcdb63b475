"""Whether time tells a guesser how near a key is: a statistical test of `Access.identify`.

Idea: refusals of several kinds of guess are timed in random order. *Half right* has the first half of a key, *nearly
right* all but its last character, *revoked* is the key of a client that was revoked; all are as long as a key. Ten
*wrong* kinds have nothing in common with any key, and show how far apart the means of equal kinds lie, on this
machine and by this program. A kind differs when it is further from their centre than they are by five standard
deviations. So that finding nothing is worth something, the same test is put to a comparison that stops at the first
difference, and has to find it out; and the smallest difference that it would have noticed is told.
"""

from __future__ import annotations

import random
import secrets
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from qrng_gateway.admission.access import Access
from qrng_grpc.client_keys import Client, ClientRecord, KeyDigest, changing_client_file, digest_of, new_key
from qrng_grpc.errors import AuthenticationError

REPEATED = 20
"""How often each guess is presented; the median of its times counts."""
WRONG = 10
"""Kinds of guess that do not differ."""
DIFFERENT = 5.0
"""Standard deviations."""
CLIENTS = 1000
"""Those that may come in, those that were revoked, and the different guesses of each kind."""


def main() -> None:
    """Print how the kinds differ; exit with 1 when time tells them apart, or the test could not have."""
    keys, revoked = ([new_key() for _ in range(CLIENTS)] for _ in range(2))
    access = access_with(keys, revoked)
    told_apart = report("identify", kinds_of_guess(keys, revoked), lambda guess: refused(access, guess))
    of_one = kinds_of_guess(keys[:1] * CLIENTS, revoked)
    found = report("hasty comparison", of_one, lambda guess: hasty(keys[0], guess))
    sys.exit(bool(told_apart) or not {"half right", "nearly right"} <= found)


def report(title: str, kinds: dict[str, list[str]], act: Callable[[str], object]) -> set[str]:
    """Print how `act` takes the kinds of guess; return those that time tells apart."""
    means = mean_times(kinds, act)
    wrong = np.array([mean for kind, mean in means.items() if kind.startswith("wrong")])
    deviation = float(wrong.std(ddof=1)) * (1 + 1 / len(wrong)) ** 0.5
    noticed = DIFFERENT * deviation
    print(f"{title}: {wrong.mean():.0f} ns for a wrong guess; {noticed:.0f} ns more or less would be noticed")
    others = {kind: mean - wrong.mean() for kind, mean in means.items() if not kind.startswith("wrong")}
    for kind, more_ns in others.items():
        print(f"  {kind:<16}{more_ns:>+9.1f} ns{more_ns / deviation:>+9.2f} standard deviations")
    return {kind for kind, more_ns in others.items() if abs(more_ns) >= noticed}


def access_with(keys: list[str], revoked: list[str]) -> Access:
    """Return an access with a client for each key, some of them revoked."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "clients.yaml"
        with changing_client_file(file) as records:
            for number, key in enumerate(keys + revoked):
                client, digest = Client(f"client-{number}"), KeyDigest(digest_of(key))
                records.append(ClientRecord(client, (digest,), revoked=number >= len(keys)))
        return Access(file=file)


def kinds_of_guess(keys: list[str], revoked: list[str]) -> dict[str, list[str]]:
    """Return different guesses of each kind."""

    def after(beginning: str, length: int) -> str:
        return beginning + secrets.token_urlsafe(length)[: length - len(beginning)]

    wrong = {f"wrong {number}": [after("", len(key)) for key in keys] for number in range(WRONG)}
    return wrong | {
        "half right": [after(key[: len(key) // 2], len(key)) for key in keys],
        "nearly right": [key[:-1] + ("-" if key[-1] != "-" else "_") for key in keys],
        "revoked": revoked,
    }


def refused(access: Access, guess: str) -> None:
    """Present a guess that opens nothing."""
    with suppress(AuthenticationError):
        access.identify([guess])
        raise AssertionError("a guess was right")


def hasty(key: str, guess: str) -> bool:
    """Compare as nobody should: until the first difference."""
    return all(ours == theirs for ours, theirs in zip(key, guess, strict=True))


def mean_times(kinds: dict[str, list[str]], act: Callable[[str], object]) -> dict[str, float]:
    """Return how long a guess of each kind takes, in nanoseconds."""
    plan = [(kind, place) for kind, guesses in kinds.items() for place in range(len(guesses))] * REPEATED
    random.shuffle(plan)
    taken: dict[tuple[str, int], list[int]] = defaultdict(list)
    for kind, place in plan:
        guess = kinds[kind][place].encode().decode()  # a copy, so that where the guess lies in memory does not count
        began_ns = time.perf_counter_ns()
        act(guess)
        taken[kind, place].append(time.perf_counter_ns() - began_ns)
    return {
        kind: float(np.mean([np.median(taken[kind, place]) for place in range(len(guesses))]))
        for kind, guesses in kinds.items()
    }


if __name__ == "__main__":
    main()
