"""Findings about virtiofsd: its features, its start, its description and its limit of open files."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.health import daemon, libvirt
from pipelines.health.daemon import Trial
from pipelines.health.finding import Finding
from pipelines.libvirt.wrappers import NO_HANDLES
from tests.support.sound import ACL_WRAPPER, SEEN, make_facts

RUST = """Launch a virtiofsd backend.

      --shared-dir <SHARED_DIR>
      --sandbox <SANDBOX>
      --readonly
      --inode-file-handles=<INODE_FILE_HANDLES>
      --cache <CACHE>
          The caching policy the file system should use (auto, always, never, metadata)

          [default: auto]
      --modcaps <MODCAPS>
  -o <COMPAT_OPTIONS>
"""

C = """usage: virtiofsd [options]
    --socket-path=PATH         path for the vhost-user socket
    -o cache=<mode>            cache mode. could be one of "auto, always, none"
                               default: auto
    -o modcaps=CAPLIST         Modify the list of capabilities
    -o sandbox=namespace|chroot
"""

#: What 1.14 says where it cannot have CAP_DAC_READ_SEARCH.
CAPABILITIES = "can't apply the child capabilities: failed to sync capabilities with the kernel"


def test_family_version_and_features_of_virtiofsd_are_parsed() -> None:
    rust = daemon.parse("/usr/libexec/virtiofsd", "virtiofsd 1.13.2\n", RUST)
    assert (rust.family, rust.version) == (daemon.RUST, "1.13.2")
    assert rust.abilities == ("readonly", "modcaps", "sandbox", "inode-file-handles")
    assert rust.caches == ("auto", "always", "metadata", "never")
    old = daemon.parse("/usr/lib/qemu/virtiofsd", "virtiofsd version 7.2.9 (Debian 1:7.2)\nusing FUSE 7.31", C)
    assert (old.family, old.version) == (daemon.C, "7.2.9")
    assert old.abilities == ("modcaps", "sandbox")
    assert old.caches == ("auto", "always", "none")


def test_a_virtiofsd_that_is_missing_or_cannot_keep_capabilities_is_a_fault() -> None:
    (missing,) = libvirt.judge_virtiofsd(None, {}, {})
    assert (missing.ok, missing.needed) == (False, True)
    serves = {ACL_WRAPPER: Trial(True, "")}
    (bare,) = libvirt.judge_virtiofsd(daemon.parse("/v", "virtiofsd 1.2.0", "--shared-dir"), serves, {})
    assert (bare.ok, bare.needed) == (False, False)
    (right,) = libvirt.judge_virtiofsd(daemon.parse("/v", "virtiofsd 1.13.2", RUST), serves, {})
    assert right.ok


def test_a_virtiofsd_that_does_not_start_is_a_fault() -> None:
    found = daemon.parse("/v", "virtiofsd 1.14.0", RUST)
    refused = Trial(False, f"[2026-11-30T08:58:32Z WARN  virtiofsd::limits] x\n[z ERROR virtiofsd] {CAPABILITIES}\n")
    (alone,) = libvirt.judge_virtiofsd(
        found, {ACL_WRAPPER: Trial(True, ""), "": refused}, {ACL_WRAPPER: ["new"], "": ["web", "db"]}
    )
    assert (alone.ok, alone.needed) == (False, True)
    assert alone.says == f"/v 1.14.0 does not start without virtroot's wrapper: {CAPABILITIES}"
    assert "run doctor with --fix: web, db will use the wrapper" in alone.do
    (by_wrapper,) = libvirt.judge_virtiofsd(found, {ACL_WRAPPER: refused}, {})
    assert (by_wrapper.ok, by_wrapper.needed) == (False, True)
    assert f'./inv help "{CAPABILITIES}"' in by_wrapper.do
    (silent,) = libvirt.judge_virtiofsd(found, {ACL_WRAPPER: Trial(False, "")}, {})
    assert "it prints nothing" in silent.says
    (handles,) = libvirt.judge_virtiofsd(found, {ACL_WRAPPER: Trial(True, f"{NO_HANDLES}, so it uses none\n")}, {})
    assert (handles.ok, handles.needed) == (False, False)
    assert "inode_file_handles" in handles.do


@pytest.mark.parametrize(
    ("described", "says"),
    [
        ([], "Unable to find a satisfying virtiofsd"),
        ([{"path": "/a.json", "binary": "/gone", "runs": False}], "/a.json describes /gone, which cannot be run"),
    ],
)
def test_libvirt_needs_a_description_of_virtiofsd(described: list[Any], says: str) -> None:
    found = libvirt.judge_description(make_facts(descriptions=described))
    assert says in found.says
    assert "50-virtiofsd.json" in found.do
    assert libvirt.judge_description(SEEN).ok


def test_a_low_limit_of_open_files_is_a_fault() -> None:
    def found(*, embedded: bool = False, **facts: Any) -> Finding:
        return libvirt.judge_open_files(make_facts(**{"daemons": [], "virtiofsds": [], **facts}), embedded=embedded)

    serving = {"pid": 7, "files": 1000000, "open": 900000}
    assert found(virtiofsds=[{**serving, "open": 10}]).ok
    assert "process 7" in found(virtiofsds=[serving]).says
    assert found(virtiofsds=[serving]).needed
    bounded = {"name": "libvirtd", "most": 8192, "raises": False}
    assert "8192" in found(daemons=[bounded]).says
    assert "LimitNOFILE" in found(daemons=[bounded]).do
    assert "default-ulimits" in found(daemons=[bounded], embedded=True).do
    assert found(daemons=[{**bounded, "raises": True}]).ok
    assert found(virtiofsds=[{**serving, "files": None, "open": None}]).ok
