"""These tests depend on nothing that the user has."""

from __future__ import annotations

import pytest

from tests.surroundings import empty_home, without_the_users

__all__ = ["empty_home", "without_the_users"]


@pytest.fixture(autouse=True)
def own_surroundings(without_the_users: None) -> None:
    """Have each test run so."""
