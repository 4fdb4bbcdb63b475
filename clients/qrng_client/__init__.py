"""Random bytes from a gateway, in a few lines.

    from qrng_client import EntropyClient

    with EntropyClient("localhost:50051", api_key=key) as client:
        entropy = client.get(32)
        entropy.data, entropy.source_class

`AsyncEntropyClient` is the same for asyncio. A call returns exactly the bytes asked for, with honest
labels, or raises one of the errors below, each a `QrngError`. Nothing is ever made up for missing bytes.
"""

from qrng_client.access import ClientClosedError
from qrng_client.aio import AsyncEntropyClient
from qrng_client.allowance import Allowance
from qrng_client.async_random_client import AsyncRandomClient
from qrng_client.byte_source import ByteSource, GatewayBytes
from qrng_client.draws import Draw, FallbackWarning
from qrng_client.entropy import BadReplyError, ChunkRange, Entropy
from qrng_client.quantum_random import QuantumRandom
from qrng_client.quantum_secrets import QuantumSecrets
from qrng_client.random_client import RandomClient, open_client
from qrng_client.read_ahead import ReadAhead
from qrng_client.requests import Wanted
from qrng_client.settings import ClientSettings, ConfigValidationError, client_settings
from qrng_client.status import GatewayStatus
from qrng_client.sync import EntropyClient
from qrng_grpc.errors import (
    AuthenticationError,
    ConfigError,
    DrainingError,
    ForbiddenError,
    InvalidRequestError,
    LimitError,
    PoolShortError,
    QrngError,
    ServerUnreachableError,
    SourceError,
    SourceUnavailableError,
    UnsupportedError,
    WeakerSourceError,
)
from qrng_grpc.labels import Custody, HealthVerdict, Processing, SourceClass

__all__ = [
    "Allowance",
    "AsyncEntropyClient",
    "AsyncRandomClient",
    "AuthenticationError",
    "BadReplyError",
    "ByteSource",
    "ChunkRange",
    "ClientClosedError",
    "ClientSettings",
    "ConfigError",
    "ConfigValidationError",
    "Custody",
    "DrainingError",
    "Draw",
    "Entropy",
    "EntropyClient",
    "FallbackWarning",
    "ForbiddenError",
    "GatewayBytes",
    "GatewayStatus",
    "HealthVerdict",
    "InvalidRequestError",
    "LimitError",
    "PoolShortError",
    "Processing",
    "QrngError",
    "QuantumRandom",
    "QuantumSecrets",
    "RandomClient",
    "ReadAhead",
    "ServerUnreachableError",
    "SourceClass",
    "SourceError",
    "SourceUnavailableError",
    "UnsupportedError",
    "Wanted",
    "WeakerSourceError",
    "client_settings",
    "open_client",
]
