"""The least that grpc.aio can do: hand out bytes, and nothing else.

python bare_aio.py [--uvloop] [--tuned] [CERT_FILE KEY_FILE].

The address goes to standard output, and the end of standard input ends it. With --uvloop it has the event loop that the
gateway has too. With --tuned it asks of the system and of grpc what the gateway does, and a little more: its threads
do not interrupt each other (SCHED_BATCH), connections have no threads of their own, and what is freed stays in the
process, where glibc may otherwise give the memory of a large message back to the kernel and have it zeroed again for
the next.
"""
# ruff: noqa: E402 - grpc reads its environment when it is imported

import asyncio
import ctypes
import os
import sys
from pathlib import Path

TUNED = "--tuned" in sys.argv
if TUNED:
    os.environ["GRPC_EXPERIMENTS"] = "-event_engine_listener,-event_engine_client"

import grpc
import grpc.aio
import uvloop

from qrng_grpc.v1 import entropy_pb2, entropy_pb2_grpc

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT = 1 << 25
"""Bytes; glibc takes no larger M_MMAP_THRESHOLD."""
BYTES = bytes([0x5A]) * (1 << 20)


class Servicer(entropy_pb2_grpc.EntropyServiceServicer):
    """Answers with as many bytes as it is asked for."""

    async def GetEntropy(self, request, context):
        """Answer one request."""
        return entropy_pb2.GetEntropyResponse(data=BYTES[: request.bytes_needed])

    async def SubscribeEntropy(self, request, context):
        """Send messages until all is sent."""
        for _ in range(request.total_bytes // request.bytes_per_message):
            await context.write(entropy_pb2.SubscribeEntropyResponse(data=BYTES[: request.bytes_per_message]))

    async def StreamEntropy(self, requests, context):
        """Answer each request."""
        async for request in requests:
            await context.write(entropy_pb2.StreamEntropyResponse(data=BYTES[: request.bytes_needed]))


def credentials_in(files):
    """Read the files of the certificate and its key, where they are named."""
    if not files:
        return None
    cert, key = (Path(name).read_bytes() for name in files)
    return grpc.ssl_server_credentials([(key, cert)])


def tune():
    """Ask the system to schedule and to keep memory as suits a server."""
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    libc = ctypes.CDLL(None)
    for option in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
        libc.mallopt(option, KEPT)


async def main(files: list[str]) -> None:
    credentials = credentials_in(files)
    server = grpc.aio.server()
    entropy_pb2_grpc.add_EntropyServiceServicer_to_server(Servicer(), server)
    if credentials:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


if __name__ == "__main__":
    if TUNED:
        tune()
    run = uvloop.run if "--uvloop" in sys.argv else asyncio.run
    run(main([word for word in sys.argv[1:] if not word.startswith("--")]))
