"""Histories made up for tests of the pages: twelve nights of web, and recipes whose author wishes us ill."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipelines.artifact.artifact import Artifact
from pipelines.artifact.difference import compare
from pipelines.artifact.history import Failure, History, RunRecord
from pipelines.artifact.manifest import Package, StageTime, Verdict
from pipelines.errors import Phase
from tests.support.artifacts import made

FIRST = datetime(2026, 11, 1, 2, 0, tzinfo=UTC)

#: The day of the night that never ran, of the one that failed in its build, and the first that failed in its boot.
MISSING, MIRROR, BROKEN = 6, 3, 9

#: How many nights, and of how many the builds are still there.
DAYS, KEPT = 12, 3

#: What a recipe, a label, a package, a version, a log and a check may be called by somebody hostile.
HOSTILE = "<script>pwned=1</script>\"onload='pwned=2'&amp;\x1b[31m\x07\u202e\u2066\ud800\0<img src=//x onerror=pwned=3>"

STAGES = ("base", "skeleton", "packages", "overlay", "finish", "inspect", "pack")


def build_name(day: int) -> str:
    return f"{FIRST + timedelta(days=day):%Y%m%dT%H%M%SZ}-{day:012x}"


def packages(day: int) -> tuple[Package, ...]:
    """Return the packages of a build; the one that breaks the boot has a new kernel and systemd."""
    broken = day >= BROKEN
    known = {
        "bash": "5.3-1",
        "libc6": f"2.41-{12 + day // 4}",
        "linux-image-cloud-amd64": "6.12.57-1" if broken else "6.12.48-1",
        "openssh-server": "1:10.0p1-7",
        "systemd": "257.9-1~deb13u1" if broken else "257.8-1~deb13u2",
        "tzdata": f"2026{'abc'[day // 5]}-0+deb13u1",
        "zlib1g": "1:1.3.dfsg-2" if day == DAYS - 1 else "1:1.3.dfsg+really1.3.1-1+b1",
    }
    return tuple(Package(name=name, version=version) for name, version in known.items())


def times(day: int, *, cached: bool) -> tuple[StageTime, ...]:
    seconds = (12.0, 0.4, 9.0 + day % 4, 0.8, 6.5, 1.5, 3.0 + day / 6)
    return tuple(
        StageTime(name=name, seconds=0.3 if cached and place < 2 else each, cached=cached and place < 2)
        for place, (name, each) in enumerate(zip(STAGES, seconds, strict=True))
    )


def failure(where: Phase, label: str) -> Failure:
    return Failure(
        where=where, label=label, text=f"[    2.1] Kernel panic - not syncing\nerror: {label}\ntry: see above\n"
    )


def night(recipe: str, day: int, before: int | None) -> RunRecord:
    """Return the night of ``day``, after that of the day ``before``: in one the mirror fails, later each boot."""
    artifact, broken = f"{recipe}/{build_name(day)}", day >= BROKEN
    common = {
        "recipe": recipe,
        "time": f"{FIRST + timedelta(days=day):%Y-%m-%dT%H:%M:%SZ}",
        "seconds": 95.0 + day,
        "golden": f"{recipe}/{build_name(min(day, BROKEN - 1))}",
        "commit": "c7b83ed5a9d1e2f3",
    }
    if day == MIRROR:
        label = failure(Phase.MIRROR, "the mirror does not answer: timed out")
        return RunRecord.model_validate({**common, "seconds": 4.0, "outcome": "failed", "failure": label})
    since = compare(packages(before), packages(day), "debian") if before is not None else None
    return RunRecord.model_validate(
        {
            **common,
            "outcome": "failed" if broken else "promoted",
            "failure": failure(Phase.BOOT, "no agent answered within 300 s") if broken else None,
            "artifact": artifact,
            "stages": times(day, cached=day > 0),
            "boot_seconds": None if broken else 28.0 + (day * 7) % 5,
            "packed_size": (111 << 20) + day * (300 << 10),
            "unpacked_size": (253 << 20) + day * (800 << 10),
            "verdicts": {} if broken else {"guest": Verdict(passed=True, tests=14, time=common["time"], seconds=9)},
            "since_last": since,
            "since_golden": since,
        }
    )


def twelve_nights(output: Path, recipe: str = "web") -> list[RunRecord]:
    """Write the history of twelve days with eleven nights, and the builds that pruning left; return the nights."""
    days = [day for day in range(DAYS) if day != MISSING]
    built = [day for day in days if day != MIRROR]
    for day in (BROKEN - 1, *built[-KEPT:]):
        artifact = made(output, recipe, build_name(day), good=day < BROKEN, packages=packages(day))
        artifact.log.write_text("what the build said\n")
        artifact.report("guest", "night-web").write_text("<testsuites/>\n")
    (output / recipe / "golden").symlink_to(build_name(BROKEN - 1))
    nights = [night(recipe, day, max((each for each in built if each < day), default=None)) for day in days]
    history = History(output / recipe / "history.jsonl")
    for each in nights:
        history.append(each)
    return nights


def good(output: Path, recipe: str = "db", nights: int = 3) -> list[RunRecord]:
    """Write the history of a recipe in order: built once, and found unchanged since."""
    artifact = made(output, recipe, build_name(0), packages=packages(0))
    (output / recipe / "golden").symlink_to(artifact.directory.name)
    first = night(recipe, 0, None)
    later = [
        first.model_copy(
            update={
                "time": f"{FIRST + timedelta(days=day):%Y-%m-%dT%H:%M:%SZ}",
                "seconds": 1.2,
                "outcome": "unchanged",
                "stages": (),
                "boot_seconds": None,
                "since_last": compare((), (), "debian"),
            }
        )
        for day in range(1, nights)
    ]
    history = History(output / recipe / "history.jsonl")
    for each in (first, *later):
        history.append(each)
    return [first, *later]


def hostile(output: Path) -> Artifact:
    """Write a history in which every text that others choose is hostile, in a directory with such a name."""
    recipe = "\"><script>pwned=4</script>\x1b]0;x\x07\u202e'&".replace("/", "\u2215")
    text = HOSTILE.replace("\ud800", "")
    artifact = made(output, "evil", build_name(0), packages=(Package(name=text, version=text),))
    (output / "evil").rename(output / recipe)
    artifact = Artifact(output / recipe / artifact.directory.name)
    (artifact.directory / "junit-x' onclick='pwned=5.xml").write_text("<x/>")
    stages = tuple(StageTime(name=f"{text}{number}", seconds=1.0) for number in range(20))
    since = compare((), artifact.manifest.packages, "debian")
    history = History(output / recipe / "history.jsonl")
    for day, outcome in enumerate(("promoted", "failed", "failed")):
        bad = outcome == "failed"
        history.append(
            night(recipe, day, None).model_copy(
                update={
                    "outcome": outcome,
                    "artifact": f"{recipe}/{build_name(0)}" if day != 1 else "../../../etc",
                    "failure": Failure(where=Phase.CHECK, label=text[:72], text=text) if bad else None,
                    "stages": stages,
                    "retried": text,
                    "commit": text,
                    "verdicts": {text: Verdict(passed=not bad, tests=1, failures=(text,), time="", seconds=1)},
                    "since_last": since,
                }
            )
        )
    return artifact
