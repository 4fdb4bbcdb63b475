"""Reading ahead: the same bytes, each once, in fewer reads."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrng_client.read_ahead import MAX_BUFFER_BYTES, ReadAhead, Rest
from qrng_grpc.errors import SourceError
from qrng_grpc.testing import ManualClock
from tests.ledger import Ledger
from tests.unit.qrng_client.byte_sources import Scripted, Seeded


@given(st.integers(1, 50), st.lists(st.integers(0, 80), max_size=30))
def test_the_bytes_of_the_source_in_order(buffer_bytes: int, sizes: list[int]) -> None:
    """Reads that fit the buffer return the source's bytes in their order, without a gap; larger ones pass by it."""
    source, by_hand = Seeded(), Seeded()
    ahead = ReadAhead(source, buffer_bytes)
    waiting = b""
    for n in sizes:
        data = ahead.read(n)
        if n > buffer_bytes:
            assert data == by_hand.read(n)
            continue
        if n > len(waiting):
            waiting += by_hand.read(buffer_bytes - len(waiting))
        assert data == waiting[:n]
        waiting = waiting[n:]
    assert source.reads == by_hand.reads


def test_small_reads_share_a_call() -> None:
    """A thousand reads of 7 bytes are seven of the source's where the buffer is 1024."""
    source = Seeded()
    ahead = ReadAhead(source, 1024)
    for _ in range(1000):
        ahead.read(7)
    assert len(source.reads) == 7
    assert max(source.reads) == 1024


def test_a_failure_loses_nothing_and_adds_nothing() -> None:
    """After a read that failed, short or with an error, what was in the buffer is still handed out, in order."""
    ahead = ReadAhead(Scripted([b"abcdefgh", b"few", OSError("gone"), b"ijklm"]), 8)
    assert ahead.read(5) == b"abcde"
    for error in (SourceError, OSError):
        with pytest.raises(error):
            ahead.read(4)
    assert ahead.read(4) == b"fghi"
    assert ahead.read(4) == b"jklm"
    with pytest.raises(SourceError, match="unplugged"):
        ahead.read(1)


def test_old_bytes_are_dropped() -> None:
    """What was asked for longer ago than the buffer's age is not handed out."""
    clock = ManualClock()
    ahead = ReadAhead(Seeded(), 64, buffer_age_s=10, clock=clock)
    stream = Seeded().read(128)
    assert ahead.read(8) == stream[:8]
    clock.advance(10)
    assert ahead.read(8) == stream[8:16]
    clock.advance(0.001)
    assert ahead.read(8) == stream[64:72]


def test_left_over_bytes_do_not_make_new_ones_old() -> None:
    """Bytes that fill up a buffer with a rest have the age of their own."""
    clock = ManualClock()
    clock.advance(100)
    ahead = ReadAhead(Seeded(), 64, buffer_age_s=10, clock=clock)
    stream = Seeded().read(128)
    ahead.read(60)
    clock.advance(6)
    assert ahead.read(8) == stream[60:68]
    clock.advance(6)
    assert ahead.read(8) == stream[68:76]


def test_what_leaves_the_buffer_is_overwritten() -> None:
    """Bytes handed out, and bytes discarded, are zeros in the buffer afterwards."""
    ahead = ReadAhead(Seeded(), 64)
    ahead.read(1)
    held = memoryview(ahead._rest._view.obj)
    assert held[1:] == Seeded().read(64)[1:]
    ahead.read(15)
    assert held[:16] == bytes(16)
    assert held[16:] == Seeded().read(64)[16:]
    ahead.discard()
    assert held == bytes(64)
    assert ahead.read(1) == Seeded().read(65)[64:]


def test_a_buffer_never_shows_its_bytes() -> None:
    """The repr of a buffer and of its parts holds none of its bytes."""
    ahead = ReadAhead(Scripted([b"ABCDEFGH" * 8]), 64)
    ahead.read(1)
    assert "BCDEF" not in repr(ahead) + repr(vars(ahead))


@pytest.mark.parametrize("buffer_bytes", [0, -1, MAX_BUFFER_BYTES + 1])
def test_no_buffer(buffer_bytes: int) -> None:
    """A buffer has bounds of its own."""
    with pytest.raises(ValueError, match="buffer_bytes"):
        ReadAhead(Seeded(), buffer_bytes)
    with pytest.raises(TypeError):
        ReadAhead(Seeded(), 64.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("age", [0, -1, float("nan"), float("inf")])
def test_no_age(age: float) -> None:
    """A buffer whose bytes could wait for ever, or not at all, is refused."""
    with pytest.raises(ValueError, match="buffer_age_s"):
        ReadAhead(Seeded(), 64, buffer_age_s=age)


def test_no_size() -> None:
    """A negative number of bytes is a mistake, and takes nothing."""
    ahead = ReadAhead(Seeded(), 64)
    assert ahead.read(4) == Seeded().read(4)
    with pytest.raises(ValueError, match="not negative"):
        ahead.read(-1)
    assert ahead.read(4) == Seeded().read(8)[4:]


def test_one_thread_at_a_time() -> None:
    """From the look into the buffer to the last change of it no other thread gets in, the source's answer included."""
    held = []

    class Watching(Seeded):
        def read(self, n: int, /) -> bytes:
            held.append(ahead._lock.locked())
            return super().read(n)

    ahead = ReadAhead(Watching(), 64)
    ahead.read(8)
    assert held == [True]


def test_threads_share_no_byte() -> None:
    """Four threads that read through one buffer, at once and in all sizes, get every byte once."""
    source = Seeded()
    ahead = ReadAhead(source, 256)
    taken: list[list[bytes]] = [[] for _ in range(4)]

    def take(number: int) -> None:
        sizes = random.Random(number)
        taken[number] = [ahead.read(16 * sizes.choice((1, 2, 3, 5, 32))) for _ in range(500)]

    threads = [threading.Thread(target=take, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    served = b"".join(piece for pieces in taken for piece in pieces)
    delivered = sum(source.reads)
    assert len(served) == delivered - len(ahead._rest)
    Ledger(0, stream_bytes=delivered).check_once(served)


def interrupted_at(step: int, read: Callable[[], bytes]) -> bool:
    """Raise KeyboardInterrupt before instruction number `step` of what changes the buffer; say if there was one."""
    changing = {way.__code__ for way in (ReadAhead._fill, Rest.take, Rest.followed_by, Rest.wipe)}
    left = itertools.count(step, -1)

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code not in changing:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and next(left) == 0:
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        read()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("age", [60, 1])
@pytest.mark.parametrize("taken", [0, 16, 240])
def test_an_interrupted_read_repeats_nothing(taken: int, age: float) -> None:
    """Ctrl-C at whatever instruction loses bytes: none is handed out twice, and none that was overwritten."""
    for step in itertools.count():
        clock, source = ManualClock(), Seeded()
        ahead = ReadAhead(source, 256, buffer_age_s=age, clock=clock)
        served = ahead.read(taken)
        clock.advance(2)
        if not interrupted_at(step, lambda: ahead.read(32)):  # noqa: B023  # it is called at once
            assert step > 20
            return
        served += b"".join(ahead.read(48) for _ in range(12))
        Ledger(0, stream_bytes=sum(source.reads)).check_once(served)


def run(program: str) -> list[str]:
    """Run `program` in a process of its own, which may fork; return the lines it printed."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True, timeout=30)
    return done.stdout.splitlines()


IN_TWO_PROCESSES = """
import os, sys
from qrng_client.read_ahead import ReadAhead

class System:
    def read(self, n):
        return os.urandom(n)

ahead = ReadAhead(System(), 4096)
ahead.read(16)
child = os.fork()
mine = ahead.read(2048)
if child:
    os.waitpid(child, 0)
os.write(1, mine.hex().encode() + b"\\n")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_parent_and_child_share_no_byte() -> None:
    """What was read ahead before a fork stays with the parent: the child has none of it."""
    child, parent = (bytes.fromhex(line) for line in run(IN_TWO_PROCESSES))
    pieces = {parent[start : start + 16] for start in range(len(parent) - 15)}
    assert not pieces & {child[start : start + 16] for start in range(len(child) - 15)}


WHILE_A_THREAD_READS = """
import os, threading, warnings
from qrng_client.read_ahead import ReadAhead

warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads is what this is about
parent, reading, over = os.getpid(), threading.Event(), threading.Event()

class Slow:
    def read(self, n):
        if os.getpid() == parent:
            reading.set()
            over.wait()
        return os.urandom(n)

ahead = ReadAhead(Slow(), 64)
thread = threading.Thread(target=ahead.read, args=(8,))
thread.start()
reading.wait()
child = os.fork()
if child == 0:
    os.write(1, b"%d\\n" % len(ahead.read(8)))
    os._exit(0)
status = os.waitpid(child, 0)[1]
over.set()
thread.join()
os.write(1, b"%d\\n" % status)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_does_not_wait_for_its_parents_threads() -> None:
    """A fork while another thread reads leaves the child a buffer it can read from."""
    assert run(WHILE_A_THREAD_READS) == ["8", "0"]
