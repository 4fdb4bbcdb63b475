"""Output monitoring: tests of what a source delivers, and what follows when they fail.

Idea: functions from bytes to values. A test takes the stream in blocks of any length and says whether it raises an
alarm, at which sample and on which count; no clock, no event loop, no device, and no byte of entropy in any
answer. Needs numpy, from the extra `qrng-grpc[server]`.

    cutoffs.py              alarms as rare as alpha, from the assessed entropy (SP 800-90B, 4.4)
    repetition_count.py     a source stuck on one value
    adaptive_proportion.py  a source that favours a value
    bit_counts.py           a stuck or biased bit
    period.py               the same bytes again within 1 MiB
    fingerprints.py         a reply that was fetched before
    monitor.py              all of these for one source, with start-up and on-demand tests
    quarantine.py           when a source that failed may come back

It is monitoring of output: over a network we see conditioned bytes, not raw noise. What it shows and does not
show is in docs/output-monitoring.md.
"""

from qrng_grpc.health_tests.fingerprints import Fingerprints
from qrng_grpc.health_tests.monitor import START_UP_SAMPLES, Monitor, StreamTests
from qrng_grpc.health_tests.quarantine import Quarantine, QuarantineState
from qrng_grpc.health_tests.verdict import Failure, HealthTest, Verdict

__all__ = [
    "START_UP_SAMPLES",
    "Failure",
    "Fingerprints",
    "HealthTest",
    "Monitor",
    "Quarantine",
    "QuarantineState",
    "StreamTests",
    "Verdict",
]
