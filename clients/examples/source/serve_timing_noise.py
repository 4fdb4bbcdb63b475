"""The timing of this processor, served from within a program that has its own event loop and its own way to end.

Takes HOST:PORT, by default 127.0.0.1:50051. Ends with Ctrl-C.
"""

import asyncio
import sys

from qrng_grpc.serving import stop_event_on_signals
from qrng_source_server.app import serving_source
from qrng_source_server.config import SourceServerConfig

ADDRESS = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"


async def serve() -> None:
    """Serve until a signal asks to stop."""
    stop = stop_event_on_signals()
    # Any object that is an EntropySource can be served so: serving_source(config, source=MySource()).
    async with serving_source(SourceServerConfig(source={"kind": "jitter"}, listen_address=ADDRESS)) as server:
        print(f"timing noise at {server.address}", flush=True)
        await stop.wait()


asyncio.run(serve())
