"""What somebody on the wire, who has every recording but no key, can make of them."""

from __future__ import annotations

import time
from dataclasses import replace
from random import Random

import grpc.aio

from qrng_grpc.testing.relay import RecordedCall, flipped
from qrng_grpc.v1.push_pb2 import PushChunksRequest
from tests.programs import CHUNK_BYTES, Laboratory


def bit_flip(calls: list[RecordedCall], rng: Random) -> bytes:
    """Return a recorded message with one bit turned over, wherever it is."""
    request = _any_request(calls, rng)
    return flipped(request, rng.randrange(8 * len(request)))


def splice(calls: list[RecordedCall], rng: Random) -> bytes:
    """Return the chunk of one recorded message under the signature of another."""
    bodies = {PushChunksRequest.FromString(request).signed_chunk.chunk for call in calls for request in call.requests}
    spliced = PushChunksRequest.FromString(_any_request(calls, rng))
    spliced.signed_chunk.chunk = rng.choice(sorted(bodies - {spliced.signed_chunk.chunk}))
    return spliced.SerializeToString()


def wrong_key(lab: Laboratory, rng: Random) -> bytes:
    """Return a chunk of bytes that no source delivered, captured now, signed with another secret of the same name."""
    forger = replace(lab, record=replace(lab.record, secret=rng.randbytes(48)))
    return forger.signed(rng.randbytes(CHUNK_BYTES), epoch=time.time_ns(), sequence=1)


def unknown_key(lab: Laboratory, rng: Random) -> bytes:
    """Return such a chunk, signed with a key of a name nobody knows."""
    forger = replace(lab, record=replace(lab.record, key_id="key-9", secret=rng.randbytes(48)))
    return forger.signed(rng.randbytes(CHUNK_BYTES), epoch=time.time_ns(), sequence=1)


async def refusal(lab: Laboratory, request: bytes) -> str | None:
    """Push one message in a call of its own. Returns the status it was refused with, None when it was not."""
    try:
        await lab.push([request])
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return None


def _any_request(calls: list[RecordedCall], rng: Random) -> bytes:
    return rng.choice([request for call in calls for request in call.requests])
