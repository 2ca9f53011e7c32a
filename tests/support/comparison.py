"""Two builds that must give the same bytes: how the second one is made, and what is said where a byte differs."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipelines.artifact.artifact import Artifact
from pipelines.builder import container
from pipelines.builder.container import run_builder
from pipelines.engine import engine as engines
from pipelines.errors import VirtrootError
from pipelines.recipe.distros import DISTROS
from pipelines.recipe.stage import ROOT
from pipelines.settings import CHECKOUT
from tests.conftest import Virtroot

#: What there is to know of each entry of a tarball, by its path.
Entries = dict[str, dict[str, object]]

#: Files whose difference diffoscope explains: more of them seldom have another reason.
_EXPLAINED = 3

# All that two builds may differ in, apart from their times.
_ELSEWHERE = 'echo elsewhere > /proc/sys/kernel/hostname; umask 077; cd /; exec "$@"'
_ENVIRONMENT = {"TZ": "Pacific/Kiritimati", "LC_ALL": "tr_TR.UTF-8", "LANGUAGE": "tr"}


def made_elsewhere(inv: Virtroot, recipe: Path, output: Path, *arguments: str, **env: str) -> Artifact:
    """Build from nothing into ``output``, with another host name, umask, locale, time zone and directory."""
    environment = {**inv.environment, **_ENVIRONMENT, **env, "INVOKE_VIRTROOT_OUTPUT": str(output)}
    environment.pop("SOURCE_DATE_EPOCH", None)
    build = [str(CHECKOUT / "inv"), "build", "--recipe", str(recipe), "--no-cache", *arguments]
    elsewhere = ["unshare", "--uts", "sh", "-ec", _ELSEWHERE, "elsewhere", *build]
    done = subprocess.run(
        elsewhere, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return Artifact(Path(done.stdout.strip()))


def gives_the_same_bytes_again(inv: Virtroot, recipe: Path, scratch: Path) -> None:
    """Fail unless a build elsewhere, from nothing, gives the bytes of the recipe's last one."""
    latest = inv.output / recipe.stem / "latest"
    if not latest.exists():
        inv("build", "--recipe", str(recipe))
    first = Artifact(latest.resolve())
    second = made_elsewhere(inv, recipe, scratch / "second")
    if first.manifest.mirror_state != second.manifest.mirror_state:
        # Debian's mirror moved on since other tests built the first one.
        first = made_elsewhere(inv, recipe, scratch / "first")
    assert first.manifest.plan == second.manifest.plan
    same_bytes(inv, first, second)


def same_bytes(inv: Virtroot, first: Artifact, second: Artifact) -> None:
    """Fail unless both roots are the same, and say which files differ in what."""
    if first.manifest.rootfs.sha256 == second.manifest.rootfs.sha256:
        return
    found = differences(first.tarball, second.tarball)
    changed = [line.partition(": content")[0] for line in found if line.endswith(": content")]
    pytest.fail("\n".join(("the roots differ:", *found[:100], *_explained(inv, (first, second), changed))))


def differences(first: Path, second: Path) -> list[str]:
    """Return ``PATH: what differs`` for each entry of two tarballs, with both values where they are short."""
    one, two = _entries(first), _entries(second)
    found = [f"{name}: only in {where}" for name, where in _only(one, two, first, second)]
    for name in sorted(one.keys() & two.keys()):
        for fact, value in one[name].items():
            if fact == "content" and value != two[name][fact]:
                found.append(f"{name}: content")
            elif value != two[name][fact]:
                found.append(f"{name}: {fact} {value} and {two[name][fact]}")
    if not found and list(one) != list(two):
        found.append("the order of the entries")
    return found or ["nothing but how the tarballs are written"]


def _only(one: Entries, two: Entries, *names: Path) -> list[tuple[str, Path]]:
    gone, new = one.keys() - two.keys(), two.keys() - one.keys()
    return [(name, names[0]) for name in sorted(gone)] + [(name, names[1]) for name in sorted(new)]


def _entries(tarball: Path) -> Entries:
    """Return what there is to know of each entry, by its path."""
    entries: Entries = {}
    with (
        subprocess.Popen(["zstd", "--decompress", "--stdout", tarball], stdout=subprocess.PIPE) as zstd,
        tarfile.open(fileobj=zstd.stdout, mode="r|") as tar,
    ):
        for entry in tar:
            file = tar.extractfile(entry) if entry.isreg() else None
            entries[entry.name] = {
                "type": entry.type,
                "mode": f"{entry.mode:o}",
                "owner": (entry.uid, entry.gid),
                "time": entry.pax_headers.get("mtime", entry.mtime),
                "device": (entry.devmajor, entry.devminor),
                "link": entry.linkname,
                "headers": {key: value for key, value in entry.pax_headers.items() if key != "mtime"},
                "content": hashlib.sha256(file.read()).hexdigest() if file else "",
            }
    return entries


def _explained(inv: Virtroot, artifacts: Sequence[Artifact], names: Sequence[str]) -> list[str]:
    """Return what diffoscope says of the first files of ``names``; it is fetched into a container for that."""
    if not names:
        return []
    engine = engines.connect()
    manifest = artifacts[0].manifest
    image, _ = container.ensure_image(engine, DISTROS[manifest.recipe.distro], inv.settings)
    try:
        with run_builder(engine, image, manifest.name, inv.settings, "compare") as worker:
            worker.run(["apt-get", "update", "-qq"])
            worker.run(["apt-get", "install", "-qq", "-y", "--no-install-recommends", "diffoscope-minimal"])
            said = []
            for number, artifact in enumerate(artifacts):
                worker.run(["mkdir", f"{ROOT}/{number}"])
                extract = ["tar", "--extract", "--zstd", "--file=-", "--directory", f"{ROOT}/{number}"]
                with artifact.tarball.open("rb") as content:
                    worker.run([*extract, *names[:_EXPLAINED]], stdin=content)
            for name in names[:_EXPLAINED]:
                compare = [
                    "diffoscope",
                    "--no-progress",
                    "--max-report-size=8000",
                    f"{ROOT}/0/{name}",
                    f"{ROOT}/1/{name}",
                ]
                said.append(worker.run(compare, check=False).text)
            return said
    except VirtrootError as error:
        return [f"diffoscope could not be asked: {os.linesep.join((error.what, error.detail))}"]
