"""A server of the operating system's randomness, each byte drawn after the request for it: `qrng serve-source system`.

Takes HOST:PORT, by default 127.0.0.1:50051. Ends with Ctrl-C.
"""

import sys

from qrng_source_server.app import main
from qrng_source_server.config import SourceServerConfig

ADDRESS = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"

main(SourceServerConfig(source={"kind": "system"}, listen_address=ADDRESS))
