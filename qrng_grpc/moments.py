"""Times in files: RFC 3339 for people, nanoseconds of Unix time inside.

Idea: a time without its zone means something else on another machine, so it is refused; and what is
written is read back as the same nanosecond.
"""

from __future__ import annotations

import datetime
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from qrng_grpc.clock import NS_PER_S

_RFC_3339 = re.compile(r"(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_UNIX = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_LAST_NS = (
    (datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC) - _UNIX)
    // datetime.timedelta(seconds=1)
    * NS_PER_S
)
"""The last second that has a name."""


def moment_ns(text: str) -> int:
    """Return a time such as 2027-01-01T00:00:00Z as nanoseconds of Unix time. Raises ValueError when it is none."""
    parts = _RFC_3339.fullmatch(text)
    if parts is None:
        raise ValueError("expected a time with its zone, as in 2027-01-01T00:00:00Z")
    seconds, fraction, zone = parts.groups(default="")
    return _ns_of(datetime.datetime.fromisoformat((seconds + zone).upper())) + int(fraction.ljust(9, "0"))


def rfc_3339(unix_ns: int) -> str:
    """Return a time as files have it, in UTC and exact to the nanosecond. What lies beyond the calendar is its end."""
    seconds, fraction = divmod(min(unix_ns, _LAST_NS), NS_PER_S)
    moment = (_UNIX + datetime.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{moment}.{fraction:09}".rstrip("0") + "Z" if fraction else f"{moment}Z"


def _read(value: Any) -> Any:
    """Return a time of a file. YAML reads some forms of it by itself."""
    if value is None:
        return None
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        return _ns_of(value)
    return moment_ns(value if isinstance(value, str) else "")


def _ns_of(moment: datetime.datetime) -> int:
    return (moment - _UNIX) // datetime.timedelta(microseconds=1) * 1000


Moment = Annotated[Annotated[int, Field(ge=0)] | None, BeforeValidator(_read)]
"""A time in a model of a file, None where there may be none."""
