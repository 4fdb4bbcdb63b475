"""A gateway as people write it with grpc.aio: four interceptors, a pool behind a lock, a log line for each call.

python interceptors.py [CERT_FILE KEY_FILE].

The address goes to standard output, the log to standard error, and the end of standard input ends it.
The pool is filled anew whenever it runs out, with bytes that cost nothing.
"""

import asyncio
import logging
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import grpc
import grpc.aio

from qrng_grpc.v1 import entropy_pb2, entropy_pb2_grpc

API_KEYS = {"of-this-benchmark-and-of-nothing-else"}
RATE_LIMIT = 1_000_000
BLOCK = bytes([0x5A]) * (4 << 20)

log = logging.getLogger("gateway")


class Authentication(grpc.aio.ServerInterceptor):
    """Lets in who brings a key."""

    async def intercept_service(self, continuation, details):
        """Look for the key in the metadata."""
        if dict(details.invocation_metadata).get("api-key") not in API_KEYS:
            return grpc.unary_unary_rpc_method_handler(self._refuse)
        return await continuation(details)

    async def _refuse(self, _request, context):
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "a key is required")


class RateLimit(grpc.aio.ServerInterceptor):
    """Counts the calls of each key in each second."""

    def __init__(self):
        self._lock = asyncio.Lock()
        self._counts = defaultdict(int)

    async def intercept_service(self, continuation, details):
        """Count one more."""
        key = dict(details.invocation_metadata).get("api-key")
        async with self._lock:
            self._counts[key, int(time.time())] += 1
            if self._counts[key, int(time.time())] > RATE_LIMIT:
                return grpc.unary_unary_rpc_method_handler(self._refuse)
        return await continuation(details)

    async def _refuse(self, _request, context):
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls")


class Metrics(grpc.aio.ServerInterceptor):
    """Counts calls by method, and times them."""

    def __init__(self):
        self.calls = Counter()
        self.seconds = Counter()

    async def intercept_service(self, continuation, details):
        """Wrap a unary handler with a stop watch."""
        handler = await continuation(details)
        self.calls[details.method] += 1
        if handler.unary_unary is None:
            return handler

        async def timed(request, context):
            began = time.perf_counter()
            try:
                return await handler.unary_unary(request, context)
            finally:
                self.seconds[details.method] += time.perf_counter() - began

        return grpc.unary_unary_rpc_method_handler(timed, handler.request_deserializer, handler.response_serializer)


class Logging(grpc.aio.ServerInterceptor):
    """Writes a line for each call."""

    async def intercept_service(self, continuation, details):
        """Write it, and go on."""
        log.info("call method=%s", details.method)
        return await continuation(details)


class Pool:
    """A buffer that calls take turns at."""

    def __init__(self):
        self._lock = asyncio.Lock()
        self._buffer = bytearray(BLOCK)

    async def take(self, size):
        """Take `size` bytes off the front."""
        async with self._lock:
            if len(self._buffer) < size:
                self._buffer += BLOCK
            data = bytes(self._buffer[:size])
            del self._buffer[:size]
            return data


class Servicer(entropy_pb2_grpc.EntropyServiceServicer):
    """Answers from the pool."""

    def __init__(self):
        self._pool = Pool()

    async def GetEntropy(self, request, context):
        """Answer one request."""
        return entropy_pb2.GetEntropyResponse(data=await self._pool.take(request.bytes_needed))

    async def SubscribeEntropy(self, request, context):
        """Send messages until all is sent."""
        for _ in range(request.total_bytes // request.bytes_per_message):
            yield entropy_pb2.SubscribeEntropyResponse(data=await self._pool.take(request.bytes_per_message))

    async def StreamEntropy(self, requests, context):
        """Answer each request."""
        async for request in requests:
            yield entropy_pb2.StreamEntropyResponse(data=await self._pool.take(request.bytes_needed))


def credentials_in(files):
    """Read the files of the certificate and its key, where they are named."""
    if not files:
        return None
    cert, key = (Path(name).read_bytes() for name in files)
    return grpc.ssl_server_credentials([(key, cert)])


async def main() -> None:
    credentials = credentials_in(sys.argv[1:])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    server = grpc.aio.server(interceptors=[Logging(), Metrics(), Authentication(), RateLimit()])
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
    asyncio.run(main())
