"""Kinds of sources: their names, and the settings that make a source of each.

Idea: settings name a source by its kind, and a kind is an entry point of the group `qrng.sources`. What comes with
this package and what others add are looked up in the same way; a module is imported when its kind is asked for, and
no other. A package adds a kind by a line in its pyproject.toml that names a subclass of `SourceSettings`:

    [project.entry-points."qrng.sources"]
    dice = "qrng_dice:DiceSettings"

Nobody takes another's name: a kind that several packages offer is refused, and so is one that cannot be loaded, by
the name of the package at fault. So no package that happens to be installed changes what `system` means, and no mistake
in one keeps the others from being used.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any

from qrng_grpc.config import Chosen
from qrng_grpc.sources import EntropySource
from qrng_grpc.sources.kinds.settings import NetworkSettings, SourceSettings, StatedSettings, Surroundings

__all__ = [
    "GROUP",
    "AnySource",
    "KindError",
    "NetworkSettings",
    "Offer",
    "SourceSettings",
    "StatedSettings",
    "Surroundings",
    "offers",
    "open_source",
    "settings_of",
]

GROUP = "qrng.sources"
"""The group of entry points."""
OURS = "qrng-grpc"

_HERE = "qrng_grpc.sources.kinds"
# Not entry points of our own distribution, so that a checkout whose metadata are old has all of them too.
_BUILT_IN = (
    EntryPoint("system", f"{_HERE}.system:SystemSettings", GROUP),
    EntryPoint("http", f"{_HERE}.http:HttpSettings", GROUP),
    EntryPoint("grpc", f"{_HERE}.grpc:GrpcSettings", GROUP),
    EntryPoint("device", f"{_HERE}.device:DeviceSettings", GROUP),
    EntryPoint("jitter", f"{_HERE}.jitter:JitterSettings", GROUP),
    EntryPoint("mock", f"{_HERE}.mock:MockSettings", GROUP),
)


class KindError(ValueError):
    """A kind of source that cannot be used: nobody offers it, several packages do, or its package is at fault."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A kind of source that a package offers. Nothing of it is imported yet."""

    kind: str
    package: str
    _entry_point: EntryPoint = field(repr=False)

    def load(self) -> type[SourceSettings]:
        """Import the settings of this kind. Raises KindError."""
        try:
            model = self._entry_point.load()
        except (Exception, SystemExit) as error:  # a boundary: a package may fail in any way when it is imported
            raise self._refusal(f"cannot be loaded: {_why(error)}") from error
        if not (isinstance(model, type) and issubclass(model, SourceSettings)):
            raise self._refusal("is not a subclass of SourceSettings")
        if inspect.isabstract(model):
            raise self._refusal(f"lacks {', '.join(sorted(model.__abstractmethods__))}")
        return model

    def _refusal(self, fault: str) -> KindError:
        return KindError(f"the kind {self.kind} of package {self.package} {fault}")


def offers() -> tuple[Offer, ...]:
    """Return all kinds there are, those of this package first. A name may be there more than once."""
    ours = [Offer(entry.name, OURS, entry) for entry in _BUILT_IN]
    theirs = [Offer(entry.name, _package(entry), entry) for entry in entry_points(group=GROUP)]
    return (*ours, *sorted(theirs, key=lambda offer: (offer.kind, offer.package)))


def settings_of(kind: str) -> type[SourceSettings]:
    """Import and return the settings of a kind, and of no other. Raises KindError."""
    found = [offer for offer in offers() if offer.kind == kind]
    if len(found) > 1:
        packages = " and ".join(offer.package for offer in found)
        raise KindError(f"the kind {kind} is offered by several packages: {packages}; uninstall all but one")
    if not found:
        raise KindError(f"kind: there is no such kind of source; there are {_names()}")
    return found[0].load()


def open_source(settings: SourceSettings, given: Surroundings) -> EntropySource:
    """Open what `settings` describe. Nothing is connected yet.

    Raises ValueError for settings that cannot be used, and KindError when the kind is at fault: it fails in another
    way, cannot be asked for a single byte, or labels its bytes otherwise than its settings say, on which decisions
    have been made.
    """
    try:
        source = settings.open(given)
        stated = settings.label_class, (settings.label_device_id,)
        labelled = source.label.source_class, source.label.device_ids
        most = operator.index(settings.most_bytes)
    except ValueError:
        raise
    except Exception as error:  # a boundary: the kind may be a stranger's
        raise KindError(f"the kind {settings.kind} cannot be opened: {_why(error)}") from error
    if labelled != stated:
        raise KindError(f"the kind {settings.kind} labels its bytes otherwise than its settings say")
    if most < 1:
        raise KindError(f"the kind {settings.kind} can be asked for no byte: its most_bytes is below 1")
    return source


def _chosen(value: Any) -> type[SourceSettings]:
    """Return the model of an entry, by its kind. Raises KindError."""
    kind = value.get("kind") if isinstance(value, Mapping) else None
    if not isinstance(kind, str):
        raise KindError(f"kind: required; there are {_names()}")
    return settings_of(kind)


AnySource = Annotated[SourceSettings, Chosen(_chosen)]
"""The type of a setting that is a source of whatever kind, which its `kind` says."""


def _names() -> str:
    return ", ".join(sorted({offer.kind for offer in offers()}))


def _package(entry: EntryPoint) -> str:
    # A folder of metadata that lost its METADATA has no name, whatever the type says.
    name: str | None = None if entry.dist is None else entry.dist.name
    return name or "without a name"


def _why(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"there is no module {error.name}"
    return type(error).__name__
