"""What one request may ask for, and what it gets when it says nothing."""

from __future__ import annotations

from typing import Final

MAX_COUNT: Final = 1000
"""The most integers or floats in one reply."""
MAX_UUIDS: Final = 100
DEFAULT_MAX: Final = 100
"""Up to where integers go when nobody says."""
MAX_DRAWS: Final = 4
"""How often integers are drawn before their source is taken to be broken: fair bytes need a second draw once in
600 million times."""
