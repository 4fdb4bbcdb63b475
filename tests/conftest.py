"""What holds for every test."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

from qrng_gateway.scheduling import spare_io_threads
from tests.grpcio_fault import keep_statuses

# Gateways within this process, too, have their connections seen to as the program has them.
spare_io_threads()

# How long an example takes says nothing of us: the machine may be busy, or pause, at any of them.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# A refusal that a test waits for is the one that the server sent.
keep_statuses()
