"""Token buckets, each of them a point in time.

Idea: a bucket that tokens are taken from, and flow back into at a steady rate, is wholly described by the
moment at which it will be full again. To take tokens moves that moment away by the time they need to flow
back; when it would lie further ahead than the bucket is deep, there are not enough in it. So the state is one
integer of nanoseconds, and a full bucket needs none. As it is a time, it stands when the rate changes, except that
no bucket is emptier than empty (`at_least_empty`).

Times are rounded up, so in any t seconds no more than burst + rate * t tokens are taken, less what is given back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from qrng_grpc.clock import NS_PER_S

_LONGEST_NS = 10**18
"""Some thirty years: what a request takes at the most, however low its rate."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast tokens come back, and how many a bucket holds.

    `n` tokens come back in `n * unit_ns / unit` nanoseconds, those of a whole bucket in `depth_ns`. Moments are
    nanoseconds of a monotonic clock; a bucket whose moment has passed is full.
    """

    unit_ns: int
    unit: int
    depth_ns: int

    @classmethod
    def of_requests(cls, per_s: float) -> Rate:
        """Return the rate of `per_s` requests a second, above 0. A bucket holds one second's worth, at least one."""
        one_ns = math.ceil(min(NS_PER_S / per_s, _LONGEST_NS))
        return cls(one_ns, 1, one_ns * max(1, int(per_s)))

    @classmethod
    def of_bytes(cls, per_s: int, largest: int) -> Rate:
        """Return the rate of `per_s` bytes a second, at least 1.

        A bucket holds one second's worth, at least the `largest` taking: what never fits could never be served.
        """
        return cls(NS_PER_S, per_s, -(-max(per_s, largest) * NS_PER_S // per_s))

    def after(self, full_at_ns: int, now_ns: int, n: int) -> int:
        """Return when a bucket that is full at `full_at_ns` will be so once `n` tokens are taken from it now."""
        return (full_at_ns if full_at_ns > now_ns else now_ns) - (-n * self.unit_ns // self.unit)

    def before(self, full_at_ns: int, now_ns: int, n: int, after_ns: int) -> int:
        """Return when a bucket will be full once `n` tokens were put back into it; `after`, undone.

        `after_ns` is when it was to be full when they had been taken. What time has put back since then does not come
        back twice, so that no burst can be saved up by taking early and giving back late.
        """
        return full_at_ns - min(-(-n * self.unit_ns // self.unit), max(0, after_ns - now_ns))

    def at_least_empty(self, full_at_ns: int, now_ns: int) -> int:
        """Return when a bucket that has this rate from now on will be full: what it owed by a slower one is forgiven.

        Else whoever emptied it at a low rate would wait for all of that at the low rate, after it was raised.
        """
        return min(full_at_ns, now_ns + self.depth_ns)

    def wait_ns(self, full_at_ns: int, now_ns: int) -> int:
        """Return in how long a bucket has what lets it be full at `full_at_ns`; 0 or less when it has it now."""
        return full_at_ns - now_ns - self.depth_ns

    def left(self, full_at_ns: int, now_ns: int) -> int:
        """Return how many whole tokens are in a bucket that is full at `full_at_ns`; 0 when it owes some."""
        missing_ns = full_at_ns - now_ns if full_at_ns > now_ns else 0
        return max(0, (self.depth_ns - missing_ns) * self.unit // self.unit_ns)
