"""The examples of docs/randomness.md, and those in the modules it is about, run; and every public name has one.

The one that needs a gateway runs in tests/integration/test_randomness.py.
"""

from __future__ import annotations

import doctest
import inspect
import os
import random
import re
from pathlib import Path
from types import ModuleType

import pytest

import qrng_client
from qrng_client import arrays, byte_source, quantum_random, quantum_secrets, read_ahead
from qrng_client.arrays import QuantumArrays

TEXT = (Path(__file__).parents[2] / "docs" / "randomness.md").read_text(encoding="utf-8")
TOLD = "".join(block + "\n" for block in re.findall(r"```pycon\n(.*?)```", TEXT, re.DOTALL))
(OF_A_GATEWAY,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
MODULES = [arrays, byte_source, quantum_random, quantum_secrets, read_ahead]


class System:
    """The source that examples in docstrings call `source`."""

    def read(self, n: int, /) -> bytes:
        return os.urandom(n)


def examples() -> list[doctest.DocTest]:
    """Return those of the document, as one, and those of each docstring."""
    told = doctest.DocTestParser().get_doctest(TOLD, {}, "docs/randomness.md", None, None)
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [one for module in MODULES for one in finder.find(module, globs={**vars(module), "source": System()})]
    return [told, *(one for one in found if one.examples)]


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.name)
def test_example_runs(example: doctest.DocTest) -> None:
    """Each example returns what it says."""
    report: list[str] = []
    outcome = doctest.DocTestRunner().run(example, out=report.append)
    assert outcome.attempted > 0
    assert outcome.failed == 0, "".join(report)


def public_names() -> set[str]:
    """Return the names of these modules that users have, methods among them."""
    ours = [value for module in MODULES for value in vars(module).values() if from_one_of(value, MODULES)]
    exported = {value.__name__ for value in ours if hasattr(qrng_client, value.__name__)} - {"ByteSource"}
    classes = (quantum_random.QuantumRandom, quantum_secrets.QuantumSecrets, QuantumArrays, read_ahead.ReadAhead)
    methods = {name for cls in classes for name in dir(cls) if not name.startswith("_")} - {"VERSION"}
    return (exported | {"QuantumArrays"} | methods) - {"binomialvariate"} - set(vars(random.Random()))


def from_one_of(value: object, modules: list[ModuleType]) -> bool:
    return inspect.isclass(value) and value.__module__ in {module.__name__ for module in modules}


@pytest.mark.parametrize("name", sorted(public_names()))
def test_every_public_name_has_an_example(name: str) -> None:
    """No class and no method, the standard library's among them, is without an example that runs."""
    shown = OF_A_GATEWAY + "".join(example.source for one in examples() for example in one.examples)
    assert re.search(rf"\b{name}\(", shown)
