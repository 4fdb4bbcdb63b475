"""Two gateways and a collector that die again and again, on a bad wire, under attack, while clients never stop reading.

Chance picks who dies, when and how, what the wire does to calls, and what is forged and played again. What must
hold is not left to chance: every byte once, nothing forged, no replay, and books that balance.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import pytest

from qrng_grpc.testing.relay import RecordedCall
from tests.chaos.attacks import bit_flip, refusal, splice, unknown_key, wrong_key
from tests.chaos.books import check_not_sent_again
from tests.chaos.books import replay as replay_alone
from tests.chaos.site import Feed, Gate, Site, whole_site
from tests.ledger import Ledger
from tests.waiting import until

ROUNDS = 12
REPLAYED = 3
"""Calls that are played again at a time."""


def change_weather(gate: Gate, rng: Random) -> None:
    """Let the wire misbehave from now on, in ways that chance picks; now and then not at all."""
    relay = gate.relay
    relay.duplicate = rng.random() < 0.3
    relay.delay_s = rng.choice((0, 0, 0.002, 0.01))
    faults = (relay.cut_after, relay.lose_replies, relay.damage_after)
    for fault in rng.sample(faults, rng.randrange(len(faults) + 1)):
        fault(rng.randrange(3))


async def attack(site: Site, rng: Random) -> None:
    """Forge, splice and replay at a gateway that works. Nothing of it may be disposed of that is not its own."""
    here, there = rng.sample(site.gates, 2)
    own, foreign = list(here.relay.calls), list(there.relay.calls)
    forged = [bit_flip(own, rng), splice([*own, *foreign], rng), wrong_key(here.lab, rng), unknown_key(here.lab, rng)]
    for request in rng.sample(forged, 2):
        assert await refusal(here.lab, request) in {"UNAUTHENTICATED", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}
    await here.replay(some_of(own, rng))
    for call in await here.replay(some_of(foreign, rng)):
        assert not call.disposed


def some_of(calls: list[RecordedCall], rng: Random) -> list[RecordedCall]:
    return rng.sample(calls, min(REPLAYED, len(calls)))


async def moment_comes(gate: Gate, rng: Random) -> None:
    """Wait for a moment: one in which a call is stopped in its middle, or just some messages later."""
    relay = gate.relay
    if rng.random() < 0.5:
        relay.stopped.clear()
        relay.stop_after(rng.randrange(3))
        await relay.stopped.wait()
        return
    last = relay.messages + rng.randrange(30)
    await until(lambda: relay.messages >= last)


async def strike(site: Site, rng: Random) -> list[Gate | Feed]:
    """End one program or two, most of them by force. Returns where they ran."""
    places: list[Gate | Feed] = [*site.gates, site.feed]
    victims = rng.sample(places, rng.choice((1, 1, 2)))
    by_force = rng.random() < 0.8
    await asyncio.gather(*(victim.look() for victim in victims))
    await moment_comes(rng.choice(site.gates), rng)
    await asyncio.gather(*(victim.kill() if by_force else victim.end() for victim in victims))
    return victims


async def begin_again(gate: Gate, rng: Random) -> None:
    """Start a gateway anew, now and then without its mark; before anyone else speaks, play it its past."""
    forgotten = rng.random() < 0.4
    if forgotten:
        gate.lab.delete_gateway_state()
    past = some_of([call for call in gate.relay.calls if call.requests], rng)
    gate.relay.stop_after(0)
    await gate.start()
    gate.run.replayed += past
    replayed = await replay_alone(gate.lab, past)
    if forgotten:
        assert replayed.stored_bytes == 0
    gate.relay.go_on()


async def one_round(site: Site, rng: Random) -> None:
    """A spell of bad weather, an attack, and a strike; then all of it must flow again."""
    for gate in site.gates:
        change_weather(gate, rng)
    await attack(site, rng)
    struck = await strike(site, rng)
    for gate in site.gates:
        if gate in struck:
            await begin_again(gate, rng)
        gate.relay.go_on()
    if site.feed in struck:
        await site.feed.start()
    for gate in site.gates:
        await gate.flows()


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_storm_of_crashes(tmp_path: Path, rng: Random) -> None:
    """However often gateways and collector die, and whatever is forged and played again, each byte is served once.

    At the end the books of all runs bound what the source's ledger says was captured.
    """
    async with whole_site(tmp_path, rng) as site:
        for gate in site.gates:
            await gate.flows()
        for _ in range(ROUNDS):
            await one_round(site, rng)
        for gate in site.gates:
            gate.relay.duplicate, gate.relay.delay_s = False, 0
        await site.end()
        delivered = site.feed.delivered_bytes
    assert all(gate.served for gate in site.gates)
    Ledger(0, stream_bytes=delivered).check_once(site.served)
    site.check_bounds()
    for gate in site.gates:
        check_not_sent_again(gate.relay.calls)
