"""What clients had today, so that a daily quota outlives the program.

Idea: a file for each client says how many bytes it may have had on which day (UTC), and it is written *ahead*: before
bytes are given out, the count in the file covers them. After a kill -9 it says what was given out, or up to a
hundredth of the quota more, but never less; after a polite end it is exact. However much a client asks, that
costs about a hundred small writes a day. They are left to the operating system to bring to the disk, since a sync
would hold up everyone's calls; so a power failure may forget what was given out in the last half minute. Only the
first write of all for a client is synced, or a power failure could leave a file that holds no count.

Clocks are set back at times. A count stays with its day until the next one comes, so that no quota is granted
twice around midnight; but where the clock was ahead by more than a day, the count is taken for today's, so that
no client waits for a day that is far away.
"""

from __future__ import annotations

from pathlib import Path

from qrng_grpc.clock import NS_PER_S, SYSTEM_CLOCK, Clock
from qrng_grpc.errors import StateError
from qrng_grpc.logs import get_log
from qrng_grpc.state import NumbersFile
from qrng_grpc.wording import reason_of

NS_PER_DAY = 86_400 * NS_PER_S
STEPS = 100
"""The count on disk is ahead by one part in so many of the quota, at most."""
KEPT_DAYS = 30
"""For how long the file of a client that is gone is kept."""

_SUFFIX = ".day"


class DailyCounts:
    """The counts of the clients that have a quota, in `directory`, which belongs to this process.

    There are never more than clients to which the operator gave a quota. Files of clients that were not seen for
    thirty days are deleted at the start. Raises StateError when one is damaged.
    """

    def __init__(self, directory: Path, clock: Clock = SYSTEM_CLOCK) -> None:
        self.failing = False
        """Whether the last count that had to be written could not be; clients with a quota are refused then."""
        self.now_ns = clock.now_ns
        """Nanoseconds of Unix time."""
        self._directory = directory
        self._counts: dict[str, DayCount] = {}
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            self._load()
        except OSError as error:
            raise StateError(f"{directory} cannot be used ({reason_of(error)})") from None

    def of(self, client_id: str) -> DayCount:
        """Return the count of a client."""
        count = self._counts.get(client_id)
        if count is None:
            file = NumbersFile(self._directory / (client_id + _SUFFIX), 2)
            count = self._counts[client_id] = DayCount(self, file, 0, 0)
        return count

    def settle(self) -> None:
        """Write every count as it is. For the end, when nothing is given out any more."""
        for count in self._counts.values():
            count.settle()

    def wrote(self, fault: OSError | None) -> None:
        """Note how a write went, and log it when it went otherwise than the one before."""
        if fault is not None and not self.failing:
            get_log().error("daily_counts_not_written", fault=type(fault).__name__)
        elif fault is None and self.failing:
            get_log().info("daily_counts_written")
        self.failing = fault is not None

    def _load(self) -> None:
        oldest = self.now_ns() // NS_PER_DAY - KEPT_DAYS
        for path in self._directory.glob("*" + _SUFFIX):
            file = NumbersFile(path, 2)
            day, used = file.read() or (0, 0)
            if day < oldest:
                path.unlink()
            else:
                self._counts[path.name.removesuffix(_SUFFIX)] = DayCount(self, file, day, used)


class DayCount:
    """What one client had on one day: bytes, of which those given back are taken off again."""

    __slots__ = ("_covered", "_file", "_owner", "day", "used")

    def __init__(self, owner: DailyCounts, file: NumbersFile, day: int, used: int) -> None:
        self.day = day
        """The day, in days of Unix time."""
        self.used = used
        self._owner = owner
        self._file = file
        self._covered = used
        """What the file allows for on this day."""

    def take(self, n: int, quota: int) -> bool:
        """Count `n` bytes, or return False where that makes more than `quota`.

        Raises StateError, and counts nothing, when the count could not be written.
        """
        today = self._owner.now_ns() // NS_PER_DAY
        if today != self.day:
            self._turn(today)
        used = self.used + n
        if used > quota:
            return False
        if used > self._covered and not self._cover(min(quota, used + quota // STEPS)):
            raise StateError("the daily count of a client could not be written")
        self.used = used
        return True

    def give_back(self, n: int, day: int) -> None:
        """Take `n` bytes off again that were counted on `day`; what was counted on another is past."""
        if day == self.day:
            self.used -= n

    def left(self, quota: int) -> tuple[int, float]:
        """Return how many bytes of `quota` are left today, and the seconds until it is whole again."""
        today, into_ns = divmod(self._owner.now_ns(), NS_PER_DAY)
        if today != self.day:
            self._turn(today)
        return max(0, quota - self.used), ((self.day - today + 1) * NS_PER_DAY - into_ns) / NS_PER_S

    def settle(self) -> None:
        """Make the file exact. Where that fails, it still covers what was given out."""
        if self._covered != self.used:
            self._cover(self.used)

    def _cover(self, used: int) -> bool:
        try:
            self._file.write(self.day, used, synced=False)
        except OSError as error:
            self._owner.wrote(error)
            return False
        self._owner.wrote(None)
        self._covered = used
        return True

    def _turn(self, today: int) -> None:
        """Begin a new day; or carry the count over to today, where its day is one that is far away."""
        if today > self.day:
            self.day, self.used, self._covered = today, 0, 0
        elif self.day - today > 1:
            self.day, self._covered = today, 0
