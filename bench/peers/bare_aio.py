"""The least that grpc.aio can do: hand out bytes, and nothing else.

python bare_aio.py [--uvloop] [CERT_FILE KEY_FILE].

The address goes to standard output, and the end of standard input ends it.
With --uvloop it has the event loop that the gateway has too.
"""

import asyncio
import sys
from pathlib import Path

import grpc
import grpc.aio
import uvloop

from qrng_grpc.v1 import entropy_pb2, entropy_pb2_grpc

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
    if sys.argv[1:2] == ["--uvloop"]:
        uvloop.run(main(sys.argv[2:]))
    else:
        asyncio.run(main(sys.argv[1:]))
