"""What apt takes from Debian's dated archive, whose Release files have expired, and what of it stays in the root."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipelines.builder import container
from pipelines.builder.container import Builder, run_builder
from pipelines.engine import engine as engines
from pipelines.recipe.distros import DISTROS
from pipelines.recipe.stage import ROOT
from tests.conftest import Virtroot, named

SCRIPTS = "/usr/local/lib/virtroot"
MIRRORS = ("file:/srv/debian", "file:/srv/debian-security")
OWN = ("http://own.example/debian", "http://own.example/debian-security")
SOURCES = f"{ROOT}/etc/apt/sources.list.d/debian.sources"

# Two empty archives, as they were long ago; $1 has apt's directories.
ARCHIVES = """
for suite in debian/dists/trixie debian/dists/trixie-updates debian-security/dists/trixie-security; do
    directory=/srv/$suite/main/binary-amd64
    mkdir -p "$directory"
    : > "$directory/Packages"
    cd "/srv/$suite"
    {
        printf 'Suite: %s\\nDate: Sat, 01 Nov 2025 00:00:00 UTC\\n' "${suite##*/}"
        printf 'Valid-Until: Sat, 08 Nov 2025 00:00:00 UTC\\n'
        printf 'Architectures: amd64\\nComponents: main\\nSHA256:\\n %s 0 main/binary-amd64/Packages\\n' \\
            "$(sha256sum < /dev/null | cut -d ' ' -f 1)"
    } > Release
done
mkdir -p "$1/etc/apt/sources.list.d" "$1/var/lib/apt/lists/partial" "$1/var/lib/dpkg"
: > "$1/var/lib/dpkg/status"
"""


@pytest.fixture(scope="module")
def worker(inv: Virtroot) -> Iterator[Builder]:
    """A builder with expired archives."""
    engine = engines.connect()
    image, _ = container.ensure_image(engine, DISTROS["debian"], inv.settings)
    with run_builder(engine, image, named("dated"), inv.settings, "dated") as made:
        made.run(["sh", "-ec", ARCHIVES, "archives", ROOT])
        yield made


def updated(worker: Builder) -> str:
    """Update apt's lists from the root's sources, and return what it complains of."""
    # Nobody signed these archives; whether they are expired is asked all the same.
    worker.run(["sed", "-i", "s/^Signed-By:.*/Trusted: yes/", SOURCES])
    options = ["-o", f"Dir={ROOT}", "-o", "APT::Sandbox::User=root"]
    done = worker.run(["apt-get", *options, "-qq", "--error-on=any", "update"], check=False)
    return done.complaint if done.returncode else ""


def test_an_expired_release_is_taken_from_a_dated_archive_alone(worker: Builder) -> None:
    worker.run([f"{SCRIPTS}/dated-sources", "lend", "trixie", ROOT, *MIRRORS, *OWN])
    assert updated(worker) == ""
    worker.run([f"{SCRIPTS}/write-sources", "trixie", ROOT, *MIRRORS])
    assert "is expired" in updated(worker)


def test_the_guest_gets_its_own_mirrors_unless_somebody_chose_others(worker: Builder) -> None:
    dated = ["trixie", ROOT, *MIRRORS, *OWN]
    worker.run([f"{SCRIPTS}/write-sources", "trixie", ROOT, *OWN])
    own = worker.run(["cat", SOURCES]).stdout
    worker.run([f"{SCRIPTS}/dated-sources", "lend", *dated])
    assert b"own.example" not in worker.run(["cat", SOURCES]).stdout
    worker.run([f"{SCRIPTS}/dated-sources", "take-back", *dated])
    assert worker.run(["cat", SOURCES]).stdout == own

    worker.run([f"{SCRIPTS}/dated-sources", "lend", *dated])
    worker.run(["sh", "-c", 'echo "# mine" >> "$1"', "change", SOURCES])
    worker.run([f"{SCRIPTS}/dated-sources", "take-back", *dated])
    assert b"# mine" in worker.run(["cat", SOURCES]).stdout
