"""libvirt's own schema on the golden domains."""

from __future__ import annotations

import pytest

from pipelines.libvirt.connect import connect
from tests.conftest import Virtroot
from tests.support.domains import DOMAINS, domain


@pytest.mark.parametrize("name", sorted(DOMAINS))
def test_schema(inv: Virtroot, name: str) -> None:
    target = connect(inv.settings).target
    script = 'cat > "$1"; virt-xml-validate "$1" domain'
    argv = ["sh", "-ec", script, "validate", f"/tmp/{name}.xml"]
    validated = target.run(argv, stdin=domain(name).encode(), check=False)
    assert validated.returncode == 0, validated.complaint
