"""Whether other users of the host can enter a directory."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import partial
from pathlib import Path

from pipelines.pool import exposure
from pipelines.target.target import Local


def test_exposure_follows_from_modes_and_mount_options(tmp_path: Path) -> None:
    base = Path("/var/tmp") / f"virtroot-{tmp_path.name}-{os.getpid()}"
    data = base / "media" / "data"
    data.mkdir(parents=True)
    try:
        for each in (base, base / "media", data):
            each.chmod(0o755)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "none", str(base / "media")], check=True)
        data.mkdir(mode=0o755)
        look = partial(exposure.inspect, Local(), [str(data)])
        assert (look()[0].reached, look()[0].nosuid_nodev, look()[0].is_dangerous) == (True, False, True)
        subprocess.run(["mount", "-o", "remount,nosuid,nodev", str(base / "media")], check=True)
        assert (look()[0].nosuid_nodev, look()[0].is_dangerous) == (True, False)
        base.chmod(0o750)
        assert not look()[0].reached
    finally:
        subprocess.run(["umount", str(base / "media")], check=False)
        shutil.rmtree(base)
