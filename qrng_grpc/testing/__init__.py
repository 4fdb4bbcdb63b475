"""Test doubles: small working things to run the real programs against.

Idea: a fake is something you can read, start and ask afterwards, and a piece of the public interface,
so that your tests can use what ours use. Everything listens on loopback, on a port of the system's
choice. Needs the extra `qrng-grpc[server]`.

    QuantisAppliance   a simulated Quantis appliance over HTTPS, which misbehaves when told to
    ScriptedSource     a source that does what a script says
    LedgerSource       a source that remembers every byte it gave
    ManualClock        time that moves when told to

A whole gateway in process is in `qrng_grpc.testing.gateway`, a relay that misbehaves between a collector and
a gateway in `qrng_grpc.testing.relay`.
"""

from qrng_grpc.testing.appliance import Fault, Misbehaviour, QuantisAppliance
from qrng_grpc.testing.clock import ManualClock
from qrng_grpc.testing.sources import LedgerSource, ScriptedSource

__all__ = ["Fault", "LedgerSource", "ManualClock", "Misbehaviour", "QuantisAppliance", "ScriptedSource"]
