"""Verify: the acceptance suite, run on an artifact's tree, an installed root or a running guest."""

from __future__ import annotations

import json
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipelines.artifact import archive, manifest
from pipelines.artifact.manifest import Manifest, Verdict
from pipelines.artifact.store import Store
from pipelines.build import builder_image
from pipelines.builder.container import builder
from pipelines.builder.inputs import Wanted
from pipelines.errors import CheckFailed
from pipelines.guest.guest import Guest
from pipelines.host import engine as engines
from pipelines.host import process
from pipelines.log import say, step
from pipelines.operate import find
from pipelines.recipe.stage import ROOT
from pipelines.settings import CHECKOUT, Settings

_SUITE = CHECKOUT / "tests" / "acceptance"

#: Names the file with the `Context`, for the suite's own process.
CONTEXT_VARIABLE = "VIRTROOT_CONTEXT"


@dataclass(frozen=True)
class Context:
    """What the suite has to know: what to check, and how to reach it.

    ``container`` is the builder with the artifact's tree at ``root``, else empty; ``guest`` names a guest, else empty.
    ``shutdown`` says that the suite may shut the guest down.
    """

    manifest: str
    settings: dict[str, object]
    container: str = ""
    root: str = ""
    guest: str = ""
    shutdown: bool = False


def verify_artifact(wanted: Wanted, settings: Settings) -> Verdict:
    """Check the tree of the newest artifact of ``wanted``, unpacked in a builder; its manifest gets the verdict."""
    directory = Store(settings.output_dir).latest(wanted.name)
    built = manifest.load(directory / "manifest.json")
    tarball = archive.check(directory, built)
    engine = engines.connect()
    image, _ = builder_image(engine, wanted, settings)
    # Verifications of one recipe share a builder's labels, by which a killed one is found.
    with (
        Store(settings.output_dir).lock("verification", wanted.name),
        builder(engine, image, wanted.name, settings, "verify") as worker,
    ):
        with step("unpacking the artifact"), tarball.open("rb") as content:
            worker.run(archive.unpack_argv(ROOT), stdin=content)
        context = Context(str(directory / "manifest.json"), asdict(settings), container=worker.container.id, root=ROOT)
        return _judge("tree", context, built, directory)


def verify_guest(name: str, settings: Settings, *, boot: bool) -> Verdict:
    """Check the root of the guest ``name`` and, with ``boot``, the guest itself.

    A guest that is shut off is started for it and shut down again, which is part of the check; one that runs already
    goes on running.
    """
    guest = find(name, settings)
    with _home(guest, settings) as (built, directory):
        context = Context(str(directory / "manifest.json"), asdict(settings), root=guest.root, guest=name)
        if not boot:
            return _judge("root", context, built, directory, label=name)
        started = not guest.running
        if started:
            say(f"{name} booted in {guest.start(settings.timeout):.1f} s")
        else:
            say(f"{name} is running and stays up: its shutdown is not checked")
        try:
            return _judge("guest", replace(context, shutdown=started), built, directory, label=name)
        finally:
            if started and guest.running:
                guest.stop(settings.timeout)


@contextmanager
def _home(guest: Guest, settings: Settings) -> Iterator[tuple[Manifest, Path]]:
    """Yield the guest's manifest and the directory for verdicts: its artifact's, or one for guests of foreign ones."""
    content = guest.hypervisor.target.run(["cat", f"{guest.boot}/manifest.json"]).stdout
    directory = Store(settings.output_dir).find(guest.artifact)
    if directory is None:
        directory = settings.output_dir / "guests" / guest.name
        directory.mkdir(parents=True, exist_ok=True)
        manifest.save(manifest.parse(content, f"the manifest of {guest.name}"), directory / "manifest.json")
    yield manifest.load(directory / "manifest.json"), directory


def _judge(kind: str, context: Context, built: Manifest, directory: Path, label: str = "") -> Verdict:
    """Run the suite's checks of ``kind``, write JUnit and verdict beside the manifest, raise `CheckFailed` on a no."""
    report = directory / f"junit-{'-'.join(filter(None, (kind, label)))}.xml"
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="virtroot-") as scratch:
        described = Path(scratch) / "context.json"
        described.write_text(json.dumps(asdict(context)))
        report.unlink(missing_ok=True)
        argv = [sys.executable, "-m", "pytest", str(_SUITE), "-c", str(CHECKOUT / "pyproject.toml"), "-m", kind,
                "-p", "no:cacheprovider", "--quiet", "--tb=short", f"--junit-xml={report}"]  # fmt: skip
        env = {CONTEXT_VARIABLE: str(described), "PYTHONPATH": str(CHECKOUT)}
        status = process.attach(argv, env=env, stdout_to_stderr=True)
    tests, failures = read_junit(report.read_text()) if report.exists() else (0, ("the suite did not run",))
    passed = status == 0 and tests > 0 and not failures
    verdict = Verdict(
        passed=passed,
        tests=tests,
        failures=failures,
        time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        seconds=round(time.monotonic() - begin, 1),
    )
    manifest.save(built.model_copy(update={"verdicts": {**built.verdicts, kind: verdict}}), directory / "manifest.json")
    if not passed:
        raise CheckFailed(
            f"{len(failures)} of {tests} checks failed: {', '.join(failures)}", f"read the reasons above, or {report}"
        )
    say(f"{kind}: {tests} checks passed, {report}")
    return verdict


def read_junit(text: str) -> tuple[int, tuple[str, ...]]:
    """Return how many tests a JUnit report has, and the names of those that failed or were skipped."""
    cases = list(ET.fromstring(text).iter("testcase"))  # noqa: S314 - pytest wrote it just now
    bad = [
        case.get("name", "?")
        for case in cases
        if any(case.find(tag) is not None for tag in ("failure", "error", "skipped"))
    ]
    return len(cases), tuple(bad)
