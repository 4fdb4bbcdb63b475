"""A simulated Quantis appliance: a real HTTPS server with a certificate of its own.

Idea: what a collector meets in the laboratory, on loopback. It answers like API 2.0 of the appliance,
keeps a ledger of every byte it sent, and misbehaves on command in the ways appliances and the boxes in
front of them do.
"""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import ipaddress
import socket
import ssl
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, get_args

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from qrng_grpc.sources.mock import SeededStream
from qrng_grpc.testing.faults import ByteStream, biased_bits, cached_body, repeating, stuck_bit, stuck_byte

Misbehaviour = Literal["html", "short", "long", "status_429", "status_500", "status_503", "reset", "stall", "slow_drip"]
"""What `fail_next` can make of a request for bytes.

`html`: status 200 and a page, exactly as long as the bytes asked for. `short`: half the bytes. `long`:
twice the bytes, no length announced. `status_429`, `status_503`: that status, with `retry_after`;
`status_500`: that one, and no word of when to come again. `reset`: half the bytes, then the connection is
reset. `stall`: half the bytes, then nothing. `slow_drip`: a byte every 50 ms, until all are sent or nobody
reads.
"""

Fault = Literal["stuck_byte", "stuck_bit", "bias", "period", "cached_body"]
"""What `turn_bad` can make of the bytes themselves: the faults of `qrng_grpc.testing.faults`."""
_FAULTS: dict[Fault, Callable[[int], ByteStream]] = {
    "stuck_byte": lambda seed: stuck_byte(seed=seed),
    "stuck_bit": lambda seed: stuck_bit(3, seed=seed),
    "bias": lambda seed: biased_bits(0.6, seed=seed),
    "period": lambda seed: repeating(4093, seed=seed),
    "cached_body": lambda seed: cached_body(seed=seed),
}
_DRIP_S = 0.05

MAX_BYTES = 16 << 20
_PAGE = b"<!doctype html><title>Sign in</title><p>The session has ended.</p>"


class QuantisAppliance:
    """A simulated appliance, serving while its context is open.

        async with QuantisAppliance() as appliance:
            source = HttpSource(
                appliance.url, source_class=SourceClass.SIMULATED, device_id="bench", ca_file=appliance.ca_file
            )
            appliance.fail_next("status_429")
            ...
            assert data in appliance.served

    Its bytes are the stream of `qrng_grpc.sources.mock` for `seed`. It serves `/api/2.0/streambytes`,
    and at `/systeminfo` and `/firmwareinfo` small JSON objects that say it is simulated. With `expired` its
    certificate ran out yesterday.
    """

    def __init__(self, *, seed: int = 0, expired: bool = False) -> None:
        self.url = ""
        """`https://127.0.0.1:PORT`, once entered."""
        self.ca_file = Path()
        """The certificate in PEM, to be trusted as its own CA; it lives as long as the context."""
        self.fingerprint = ""
        """The SHA-256 of the certificate, 64 hexadecimal digits."""
        self.connections = 0
        """How many connections have brought a request."""
        self.requests = 0
        """How many requests for bytes have come, refused ones included."""
        self.retry_after: str | None = "7"
        """The Retry-After header of 429 and 503: seconds, an HTTP date, anything; None leaves it out."""
        self.stalling = asyncio.Event()
        """Set once an answer stalls, so that a test can wait for it."""
        self._seed = seed
        self._expired = expired
        self._stream: ByteStream = SeededStream(seed)
        self._ledger = bytearray()
        self._misbehaviours: deque[Misbehaviour] = deque()
        self._known: set[object] = set()
        self._ending = asyncio.Event()
        self._stack = AsyncExitStack()

    @property
    def served(self) -> bytes:
        """Every random byte sent so far, in order, those of spoilt answers included: a copy."""
        return bytes(self._ledger)

    def fail_next(self, kind: Misbehaviour, times: int = 1) -> None:
        """Spoil the next `times` requests for bytes; orders queue up. Raises ValueError for an unknown kind."""
        if kind not in get_args(Misbehaviour):
            raise ValueError(f"unknown misbehaviour; there are {', '.join(get_args(Misbehaviour))}")
        self._misbehaviours.extend([kind] * times)

    def turn_bad(self, fault: Fault) -> None:
        """Serve faulty bytes from now on."""
        self._stream = _FAULTS[fault](self._seed + 1)

    def turn_good(self) -> None:
        """Serve sound bytes again, none of which were served before."""
        self._seed += 2
        self._stream = SeededStream(self._seed)

    async def __aenter__(self) -> QuantisAppliance:
        """Make a certificate and serve."""
        directory = Path(self._stack.enter_context(TemporaryDirectory(prefix="appliance-")))
        context, self.ca_file, self.fingerprint = _certified(directory, expired=self._expired)
        runner = web.AppRunner(self._application(), access_log=None, shutdown_timeout=1)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        self._stack.callback(self._ending.set)
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        host, port = runner.addresses[0][:2]
        self.url = f"https://{host}:{port}"
        return self

    async def __aexit__(self, *_exception: object) -> None:
        """End stalled answers, close every connection, delete the certificate."""
        await self._stack.aclose()

    def _application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/api/2.0/streambytes", self._streambytes)
        application.router.add_get("/api/2.0/systeminfo", _document({"model": "simulated", "serial": "SIM-0"}))
        application.router.add_get("/api/2.0/firmwareinfo", _document({"version": "simulated"}))
        return application

    async def _streambytes(self, request: web.Request) -> web.StreamResponse:
        self._count(request)
        text = request.query.get("size", "")
        if not text.isdecimal() or not 1 <= int(text) <= MAX_BYTES:
            return web.Response(status=400, text="size is missing or out of range")
        size = int(text)
        if not self._misbehaviours:
            return _octets(self._take(size))
        return await self._misbehave(self._misbehaviours.popleft(), size, request)

    async def _misbehave(self, kind: Misbehaviour, size: int, request: web.Request) -> web.StreamResponse:
        match kind:
            case "html":
                return web.Response(body=_PAGE.ljust(size)[:size], content_type="text/html")
            case "short":
                return _octets(self._take(size // 2))
            case "status_429" | "status_500" | "status_503":
                named = self.retry_after is not None and kind != "status_500"
                headers = {"Retry-After": self.retry_after or ""} if named else {}
                return web.Response(status=int(kind.removeprefix("status_")), headers=headers, text="busy")
            case "long" | "reset" | "stall" | "slow_drip":
                return await self._spoil_body(kind, size, request)

    async def _spoil_body(
        self, kind: Literal["long", "reset", "stall", "slow_drip"], size: int, request: web.Request
    ) -> web.StreamResponse:
        """Begin well, as if all was to come."""
        if kind == "long":
            return await self._begin(request, self._take(2 * size), announced=None)
        if kind == "slow_drip":
            return await self._drip(request, self._take(size))
        response = await self._begin(request, self._take(size // 2), announced=size)
        if kind == "reset":
            _reset(request)
        else:
            self.stalling.set()
            await self._ending.wait()
        return response

    async def _drip(self, request: web.Request, body: bytes) -> web.StreamResponse:
        response = await self._begin(request, body[:1], announced=len(body))
        for at in range(1, len(body)):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), _DRIP_S)
            await response.write(body[at : at + 1])
        return response

    async def _begin(self, request: web.Request, body: bytes, *, announced: int | None) -> web.StreamResponse:
        """Send the head and `body`, whatever length is announced."""
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        response.content_length = announced
        await response.prepare(request)
        await response.write(body)
        return response

    def _take(self, size: int) -> bytes:
        data = self._stream.take(size)
        self._ledger += data
        return data

    def _count(self, request: web.Request) -> None:
        self.requests += 1
        if request.protocol not in self._known:
            self._known.add(request.protocol)
            self.connections += 1


def _document(content: dict[str, str]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.json_response(content)

    return answer


def _octets(data: bytes) -> web.Response:
    return web.Response(body=data, content_type="application/octet-stream")


def _reset(request: web.Request) -> None:
    """End the connection with RST instead of FIN: linger for no time, then abort."""
    transport = request.transport
    if transport is None:
        return
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _certified(directory: Path, *, expired: bool) -> tuple[ssl.SSLContext, Path, str]:
    """Make a key and a self-signed certificate. Returns a server context, the certificate's file, its fingerprint."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _self_signed(key, expired=expired)
    key_file, certificate_file = directory / "key.pem", directory / "certificate.pem"
    key_file.touch(mode=0o600)
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate_file, key_file)
    key_file.unlink()
    der = certificate.public_bytes(serialization.Encoding.DER)
    return context, certificate_file, hashlib.sha256(der).hexdigest()


def _self_signed(key: ec.EllipticCurvePrivateKey, *, expired: bool) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "simulated appliance")])
    now = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=2 * expired)
    hosts = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
