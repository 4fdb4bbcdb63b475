"""What holds for every test."""

from __future__ import annotations

from qrng_gateway.scheduling import spare_io_threads
from tests.grpcio_fault import keep_statuses

# Gateways within this process, too, have their connections seen to as the program has them.
spare_io_threads()

# A refusal that a test waits for is the one that the server sent.
keep_statuses()
