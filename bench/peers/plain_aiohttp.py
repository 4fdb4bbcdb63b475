"""The least that aiohttp can do: hand out bytes in hex, and nothing else. On the event loop that the gateway has too.

python plain_aiohttp.py [CERT_FILE KEY_FILE].

The address goes to standard output, and the end of standard input ends it.
"""

import asyncio
import ssl
import sys

import uvloop
from aiohttp import web

BYTES = bytes([0x5A]) * (1 << 20)


async def random(request: web.Request) -> web.Response:
    """Answer one request."""
    return web.Response(text=BYTES[: int(request.query["bytes"])].hex())


async def main() -> None:
    app = web.Application()
    app.router.add_get("/api/random", random)
    tls = None
    if len(sys.argv) == 3:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*sys.argv[1:])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    print(f"127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    uvloop.run(main())
