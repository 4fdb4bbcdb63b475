"""What machine it was, and whether it was left to us.

Idea: a load average counts our own programs too. So while the bench runs, the processor time of the whole machine is
compared with that of our processes; what is left over was somebody else's, and what the hypervisor kept (steal) was
nobody's.
"""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import grpc

from qrng_grpc import __version__

OTHERS_LIMIT = 0.05
STEAL_LIMIT = 0.02
SPREAD_LIMIT = 0.15
"""Of a ratio: where half of the pairs lie further apart than this share of their median, something disturbed them."""
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Reading:
    """The machine at a moment: seconds of a clock, of processor time spent and stolen so far, and how many cores."""

    at_s: float
    busy_s: float
    steal_s: float
    cores: int


def look() -> Reading:
    """Read the counters of this machine."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    )
    busy = user + nice + system + irq + softirq
    return Reading(time.monotonic(), busy * _TICK_S, steal * _TICK_S, os.cpu_count() or 1)


@dataclass
class Watch:
    """Looks at the machine from now on. `ours_s` tells the processor time of our processes so far, in seconds."""

    ours_s: Callable[[], float]
    look: Callable[[], Reading] = look
    load_before: float = field(default_factory=lambda: os.getloadavg()[0])

    def __post_init__(self) -> None:
        self._began, self._ours_s = self.look(), self.ours_s()

    def shares(self) -> tuple[float, float]:
        """Return what others took of the machine's processor time since, and what was stolen from it."""
        now, began = self.look(), self._began
        whole_s = (now.at_s - began.at_s) * now.cores
        others_s = now.busy_s - began.busy_s - (self.ours_s() - self._ours_s)
        return max(0.0, others_s / whole_s), max(0.0, (now.steal_s - began.steal_s) / whole_s)


def complaints(watch: Watch, spreads: Mapping[str, float] = MappingProxyType({})) -> list[str]:
    """Return why the figures support no verdict; nothing on a quiet machine.

    `spreads` are those of ratios, by name, where they are to be looked at.
    """
    others, steal = watch.shares()
    found = []
    if others > OTHERS_LIMIT:
        found.append(
            f"other programs took {others:.0%} of the processor time (load average before: {watch.load_before:.1f})"
        )
    if steal > STEAL_LIMIT:
        found.append(f"the hypervisor kept {steal:.0%} of the processor time")
    wide = [name for name, spread in spreads.items() if spread > SPREAD_LIMIT]
    if wide:
        found.append(f"pairs differ by more than {SPREAD_LIMIT:.0%} in {len(wide)} of {len(spreads)} workloads")
    return found


def ours_s() -> float:
    """Return the processor time of this process and of those it has started and seen end."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def description() -> dict[str, str]:
    """Return what the figures depend on."""
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": cpu[0].partition(":")[2].strip() if cpu else platform.machine(),
        "cores": str(os.cpu_count()),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "grpcio": grpc.__version__,
        "qrng-grpc": __version__,
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }
