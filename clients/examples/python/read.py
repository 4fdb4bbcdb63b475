"""Random bytes in Python: one reply, then a short stream."""

import os

from qrng_client import EntropyClient

with EntropyClient.from_env(os.environ) as client:
    entropy = client.get(32)
    print(entropy.data.hex(), entropy.source_class.value)

    for message in client.stream(1024, total=4096):
        print(f"{len(message)} bytes of {message.device_id}")
