"""How the gateway gets its memory; what that buys is measured in tests/slow."""

import platform
import subprocess
import sys

import pytest


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these heaps")
def test_heaps_are_bounded():
    """On glibc the bound is accepted. (In a process of its own, since it is for good.)"""
    program = "from qrng_gateway.memory import keep_heaps_few; raise SystemExit(not keep_heaps_few())"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
