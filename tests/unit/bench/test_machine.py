"""A machine that was not left to us is told."""

from __future__ import annotations

from machine import Reading, Watch, complaints, description, look

BEFORE = Reading(at_s=0, busy_s=100, steal_s=0, cores=2)


def watched(
    *, busy_s: float = 0, ours_s: float = 0, steal_s: float = 0, spreads: dict[str, float] | None = None
) -> list[str]:
    """Return what is complained about after ten seconds of two cores in which so much was spent."""
    readings = iter((BEFORE, Reading(at_s=10, busy_s=100 + busy_s, steal_s=steal_s, cores=2)))
    ours = iter((0.0, ours_s))
    return complaints(Watch(lambda: next(ours), lambda: next(readings)), spreads or {})


def test_our_own_work_is_no_complaint() -> None:
    """However busy we keep both cores, that disturbs nobody."""
    assert watched(busy_s=20, ours_s=20) == []


def test_others_are_complained_about() -> None:
    """Two seconds of somebody else's, of twenty, are told as their share."""
    (found,) = watched(busy_s=12, ours_s=10)
    assert "10%" in found


def test_steal_is_complained_about() -> None:
    """What the hypervisor kept is told."""
    (found,) = watched(busy_s=10, ours_s=10, steal_s=1)
    assert "hypervisor" in found and "5%" in found


def test_wide_pairs_are_complained_about() -> None:
    """Where a ratio's pairs lie far apart, that is told, with how many do."""
    (found,) = watched(spreads={"steady": 0.05, "wild": 0.4})
    assert "1 of 2" in found


def test_counters_of_this_machine() -> None:
    """What the kernel counts never goes back."""
    first, second = look(), look()
    assert first.cores >= 1 and 0 < first.busy_s <= second.busy_s and first.at_s <= second.at_s


def test_description_names_what_figures_depend_on() -> None:
    """Processor, cores and versions go with every result."""
    assert {"processor", "cores", "kernel", "python", "grpcio", "when"} <= {*description()}
