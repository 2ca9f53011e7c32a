"""Run the acceptance suite on an artifact's tree, an installed root or a running guest."""

from __future__ import annotations

import json
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.artifact import archive
from pipelines.artifact.artifact import Artifact
from pipelines.artifact.manifest import Verdict
from pipelines.builder import inputs, private_keys
from pipelines.builder.container import ensure_image, run_builder
from pipelines.builder.inputs import Inputs
from pipelines.cli.task import GUESTS, Context, context_of, task
from pipelines.context import CommandContext
from pipelines.errors import CheckFailed, VirtrootError
from pipelines.guest import hold, manifest_copy, publication, several
from pipelines.guest.guest import Guest
from pipelines.host import private, process
from pipelines.log import say, step, warn
from pipelines.project import PROGRAM
from pipelines.recipe.stage import ROOT
from pipelines.symptom.recognise import find_symptom
from pipelines.symptom.symptom import Symptom
from pipelines.text import one_line

_SUITE = PROGRAM / "tests" / "acceptance"

#: The variable with the path of the file with the `SuiteContext`, for the suite's process.
CONTEXT_VARIABLE = "VIRTROOT_CONTEXT"

#: The property in the suite's report for a harmless difference between a guest and its artifact.
DRIFT = "drift"

#: Variables that users set for their own tests, and that would disable checks or assertions of the suite.
_RESET_VARIABLES = {"PYTEST_ADDOPTS": "", "PYTEST_PLUGINS": "", "PYTHONOPTIMIZE": ""}

#: The maximum number of differences to record, and the maximum length of each.
_MAX_DRIFT, _MAX_LENGTH = 500, 200


@dataclass(frozen=True)
class SuiteContext:
    """The input of the suite: what to check, and how to access it.

    ``artifact`` is its directory. ``container`` is the builder with the artifact's tree at ``root``, or empty;
    ``guest`` is a guest's name, or empty. With ``shutdown`` the suite may shut the guest down.
    """

    artifact: str
    settings: dict[str, Any]
    container: str = ""
    root: str = ""
    guest: str = ""
    shutdown: bool = False


def verify_artifact(inputs: Inputs, ctx: CommandContext) -> Verdict:
    """Check the tree of the newest artifact of ``inputs``, unpacked in a builder, and record the verdict."""
    store = ctx.store
    artifact = store.latest(inputs.name, inputs.source)
    artifact.refuse_damaged()
    engine = ctx.engine
    image, _ = ensure_image(engine, inputs.plan.distro, ctx.settings)
    # The builders of a recipe's verifications have the same labels, by which a killed task's builder is found. So only
    # one verification may run at a time.
    with (
        store.lock(inputs.name, "verification"),
        run_builder(engine, image, inputs.name, ctx.settings, "verify") as worker,
    ):
        with step("unpacking the artifact"), artifact.tarball.open("rb") as content:
            worker.run(archive.unpack_argv(ROOT), stdin=content)
        context = SuiteContext(str(artifact.directory), asdict(ctx.settings), container=worker.container.id, root=ROOT)
        return _run_suite("tree", context, artifact)


def verify_guest(name: str, ctx: CommandContext, *, boot: bool) -> Verdict:
    """Check the root of the guest ``name`` and, with ``boot``, the guest itself.

    A guest that is shut off is started, and shut down again as part of the check. A running guest stays running.
    """
    with hold.hold(ctx.hypervisor, name) as guest:
        return verify_locked(guest, ctx, boot=boot)


def verify_locked(guest: Guest, ctx: CommandContext, *, boot: bool) -> Verdict:
    """Check a guest whose lock the caller holds; see `verify_guest`."""
    name = guest.name
    guest.mount_layers()
    artifact = _get_artifact(guest, ctx)
    context = SuiteContext(str(artifact.directory), asdict(ctx.settings), root=guest.root, guest=name)
    if not boot:
        return _run_suite("root", context, artifact, guest)
    started = not guest.running
    booted = None
    if started:
        booted = round(publication.start(guest, ctx.settings.timeout), 1)
        say(f"{name} booted in {booted} s")
    else:
        # Without virtiofsd, each check would wait for an answer until its time limit.
        guest.refuse_unserved()
        say(f"{name} is running and stays up; its shutdown is not checked")
    judged = False
    try:
        verdict = _run_suite("guest", replace(context, shutdown=started), artifact, guest, booted)
        judged = True
    finally:
        if started and guest.running:
            _shut_down(guest, ctx, needed=judged)
    return verdict


def _shut_down(guest: Guest, ctx: CommandContext, *, needed: bool) -> None:
    try:
        guest.stop(ctx.settings.timeout)
    except VirtrootError as error:
        if needed:
            raise
        # Do not hide the suite's error by this one.
        warn(error.what)


def _get_artifact(guest: Guest, ctx: CommandContext) -> Artifact:
    """Return the guest's artifact or, if it is not in this checkout's output, a directory with its manifest."""
    store = ctx.store
    artifact = store.find(guest.source.artifact)
    if artifact:
        return artifact
    made = manifest_copy.read(guest)
    artifact = store.guest(guest.name)
    private.make_directory(artifact.directory)
    artifact.describe(made)
    return artifact


def _run_suite(
    kind: str, context: SuiteContext, artifact: Artifact, guest: Guest | None = None, booted: float | None = None
) -> Verdict:
    """Run the suite's checks of ``kind``, and write the JUnit report and the verdict. Raises CheckFailed."""
    report = artifact.report(kind, context.guest)
    private_keys.warn_about(artifact.manifest.private_keys)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="virtroot-") as scratch:
        described = Path(scratch) / "context.json"
        described.write_text(json.dumps(asdict(context)), encoding="utf-8")
        report.unlink(missing_ok=True)
        # -P: do not import modules from the current directory, which may be a guest's root.
        argv = [sys.executable, "-P", "-m", "pytest", str(_SUITE), "-c", str(_SUITE / "pytest.ini"),
                f"--rootdir={PROGRAM}", "-m", kind,
                "-p", "no:cacheprovider", "--quiet", "--tb=short", "--color=no", f"--junit-xml={report}"]  # fmt: skip
        env = {CONTEXT_VARIABLE: str(described), "PYTHONPATH": str(PROGRAM), **_RESET_VARIABLES}
        # The output of a failed check may contain text of the guest, so escape sequences are removed.
        status = process.run_by_line(argv, lambda line: say(line.rstrip("\n")), env=env)
    written = report.read_text(encoding="utf-8") if report.exists() else ""
    tests, failures, drift = read_junit(written) if written else (0, ("the suite did not run",), ())
    passed = status == 0 and tests > 0 and not failures
    verdict = Verdict(
        passed=passed,
        tests=tests,
        failures=failures,
        drift=drift,
        time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        seconds=round(time.monotonic() - begin, 1),
        boot_seconds=booted,
    )
    if passed or _is_about_artifact(kind, artifact, guest):
        artifact.judge(kind, verdict)
    if drift:
        more = f", and {len(drift) - 3} more" if len(drift) > 3 else ""
        name = context.guest
        say(
            f"{name} has changed since it was made: {', '.join(drift[:3])}{more}; run ./inv diff {name} for all changes"
        )
    if not passed:
        what, hint = f"{len(failures)} of {tests} checks failed: {', '.join(failures)}", "see the reasons above"
        symptom = _find_symptom(kind, read_reasons(written), guest)
        if symptom:
            what, hint = symptom.format_error(what), f"{symptom.format_hint(context.guest or 'NAME')}; {hint}"
        raise CheckFailed(what, f"{hint}, or {report}")
    say(f"{kind}: {tests} checks passed, {report}")
    return verdict


def _is_about_artifact(kind: str, artifact: Artifact, guest: Guest | None) -> bool:
    """Return whether a failure is the artifact's. A guest in use does not refute an artifact that passed before."""
    before = artifact.manifest.verdicts.get(kind)
    return before is None or not before.passed or guest is None or bool(guest.transient)


def _find_symptom(kind: str, reasons: Sequence[str], guest: Guest | None) -> Symptom | None:
    """Return the symptom in the ``reasons`` of failed checks or, if there is none, in the logs of a booted guest."""
    if guest is None:
        return find_symptom(reasons)
    running = guest.running
    seen = [guest.find_unserved()] if running else []
    found = find_symptom(seen, guest.symptoms) or find_symptom(reasons, guest.symptoms)
    if found or not (running or kind == "guest"):
        return found
    return find_symptom(guest.logs.read_since(None).values(), guest.symptoms)


def read_reasons(text: str) -> list[str]:
    """Return the reasons of failed tests in a JUnit report; empty for an empty report."""
    if not text:
        return []
    suites = ET.fromstring(text)  # noqa: S314 - pytest wrote it just now
    found_values = [found for tag in ("failure", "error") for found in suites.iter(tag)]
    return [f"{found.get('message', '')}\n{found.text or ''}" for found in found_values]


def read_junit(text: str) -> tuple[int, tuple[str, ...], tuple[str, ...]]:
    """Return the number of tests in a JUnit report, the names of failed and skipped ones, and the drift."""
    suites = ET.fromstring(text)  # noqa: S314 - pytest wrote it just now
    cases = list(suites.iter("testcase"))
    bad = [
        case.get("name", "?")
        for case in cases
        if any(case.find(tag) is not None for tag in ("failure", "error", "skipped"))
    ]
    found_values = [found.get("value", "") for found in suites.iter("property") if found.get("name") == DRIFT]
    # The text may be the guest's, so limit it.
    drift = [one_line(what)[:_MAX_LENGTH] for what in found_values]
    return len(cases), tuple(bad), tuple(drift[:_MAX_DRIFT])


@task(
    name="verify",
    positional=["name"],
    iterable=["name"],
    help={
        **GUESTS,
        **several.ALL,
        "distro": "check the latest build of this recipe",
        "recipe": "check the latest build of this recipe file",
        "boot": "check the running guest, too; start it if it is shut off",
    },
)
def verify_task(
    c: Context,
    name: list[str],
    distro: str = "",
    recipe: str = "",
    boot: bool = False,
    all: bool = False,  # noqa: A002 - the option
) -> None:
    """Check an artifact's tree, an installed root or (--boot) a running guest.

    ./inv verify --distro debian
    ./inv verify web --boot
    """
    ctx = context_of(c)
    if name or all:
        names = several.list_names(name, ctx, all_of_them=all)
        several.for_each(names, lambda each: verify_guest(each, ctx, boot=boot))
    else:
        verify_artifact(inputs.find(distro, recipe, settings=ctx.settings), ctx)
