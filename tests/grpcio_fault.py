"""A fault of grpcio's asyncio client, kept out of what tests see.

Idea: when a server ends a call just while a request is being written to it, the client puts INTERNAL, "Internal
error from Core", in place of the status it was given (grpc/grpc#36066). A refusal that a test waits for would be lost
so once in some hundred runs. What is behind it, here as in grpcio, is the call object of its Cython layer.
"""

from __future__ import annotations

from typing import Any

from grpc.aio import _call


class _KeepsItsStatus:
    """A call of the Cython layer that is over when it is over."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def set_internal_error(self, text: str) -> None:
        """Note why a request could not be written, unless it is known already."""
        if not self._call.done():
            self._call.set_internal_error(text)


def keep_statuses() -> None:
    """Have all calls that are made from now on keep the status they were given."""
    begin = _call.Call.__init__

    def begin_keeping(self: Any, cython_call: Any, *others: Any) -> None:
        begin(self, _KeepsItsStatus(cython_call), *others)

    _call.Call.__init__ = begin_keeping  # type: ignore[method-assign, assignment]
