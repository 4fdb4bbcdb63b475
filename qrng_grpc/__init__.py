"""Randomness from quantum devices: the contract, and what servers and clients share.

Idea: a *source* yields random bytes, a collector cuts them into signed *chunks*, a gateway keeps
these in a *pool* and gives every byte to one client. This package holds what both ends must agree
on; nothing in it imports a server or a client (`qrng_grpc.testing`, which starts real servers for
tests, is the one exception).
"""

from importlib.metadata import version

__version__ = version("qrng-grpc")
