"""What holds for every test."""

from __future__ import annotations

from qrng_gateway.scheduling import spare_io_threads

# Gateways within this process, too, have their connections seen to as the program has them.
spare_io_threads()
