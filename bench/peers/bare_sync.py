"""The least that grpc's server with a pool of threads can do: hand out bytes, and nothing else.

python bare_sync.py [CERT_FILE KEY_FILE]; the address goes to standard output, and the end of standard input ends it.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from qrng_grpc.v1 import entropy_pb2, entropy_pb2_grpc

BYTES = bytes([0x5A]) * (1 << 20)
THREADS = 64
"""As many calls as the workloads have in flight."""


class Servicer(entropy_pb2_grpc.EntropyServiceServicer):
    """Answers with as many bytes as it is asked for."""

    def GetEntropy(self, request, context):
        """Answer one request."""
        return entropy_pb2.GetEntropyResponse(data=BYTES[: request.bytes_needed])

    def SubscribeEntropy(self, request, context):
        """Send messages until all is sent."""
        for _ in range(request.total_bytes // request.bytes_per_message):
            yield entropy_pb2.SubscribeEntropyResponse(data=BYTES[: request.bytes_per_message])

    def StreamEntropy(self, requests, context):
        """Answer each request."""
        for request in requests:
            yield entropy_pb2.StreamEntropyResponse(data=BYTES[: request.bytes_needed])


def main() -> None:
    server = grpc.server(ThreadPoolExecutor(THREADS))
    entropy_pb2_grpc.add_EntropyServiceServicer_to_server(Servicer(), server)
    if len(sys.argv) == 3:
        cert, key = (Path(name).read_bytes() for name in sys.argv[1:])
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, cert)]))
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    sys.stdin.read()
    server.stop(0)


if __name__ == "__main__":
    main()
