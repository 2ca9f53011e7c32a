"""The id of an artifact: the name of its recipe, a slash, and the name of its build."""

from __future__ import annotations


class BuildId(str):
    """``RECIPE/BUILD``; empty if the artifact's version of virtroot did not write ids.

    The ids of one recipe sort by the builds' times.
    """

    __slots__ = ()

    @classmethod
    def of(cls, recipe: str, build: str) -> BuildId:
        """Return the id of a recipe's build."""
        return cls(f"{recipe}/{build}")

    @property
    def recipe(self) -> str:
        """The name of the recipe."""
        return self.partition("/")[0]

    @property
    def build(self) -> str:
        """The name of the build; empty if the text has none."""
        return self.partition("/")[2]

    def is_newer(self, other: str) -> bool:
        """Return whether this is a later build of the same recipe."""
        return self > other and self.recipe == BuildId(other).recipe
