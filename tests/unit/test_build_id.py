"""Ids of artifacts."""

from __future__ import annotations

import json

import pytest

from pipelines.artifact.build_id import BuildId


@pytest.mark.parametrize(
    ("text", "recipe", "build"),
    [("web/20261101T000000Z-1", "web", "20261101T000000Z-1"), ("a/b/c", "a", "b/c"), ("web", "web", ""), ("", "", "")],
)
def test_an_id_has_a_recipe_and_a_build_and_is_text(text: str, recipe: str, build: str) -> None:
    found = BuildId(text)
    assert (found.recipe, found.build) == (recipe, build)
    assert (found, f"{found}", json.dumps([found])) == (text, text, json.dumps([text]))


def test_only_a_build_of_the_same_recipe_can_be_newer() -> None:
    old, new = BuildId.of("web", "20261101T000000Z-1"), BuildId.of("web", "20261102T000000Z-1")
    assert new.is_newer(old)
    assert not old.is_newer(new)
    assert not new.is_newer(new)
    assert not BuildId.of("web2", new.build).is_newer(old)
