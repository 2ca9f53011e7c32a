"""Two builds of a plan give the same bytes; those of other generators are compared where they are booted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Virtroot, named
from tests.support.comparison import gives_the_same_bytes_again


@pytest.mark.long
def test_two_builds_of_one_plan_give_the_same_bytes(
    inv: Virtroot, trixie: Path, recipe: Callable[..., Path], tmp_path: Path
) -> None:
    # Beginning as trixie, whose stages are cached; these packages generate keys and ids when they are installed.
    source = recipe(named("machine"), bootstrap="mmdebstrap")
    more = "qemu-guest-agent, ssl-cert, open-iscsi, postfix]"
    source.write_text(source.read_text().replace("qemu-guest-agent]", more))
    gives_the_same_bytes_again(inv, source, tmp_path)
