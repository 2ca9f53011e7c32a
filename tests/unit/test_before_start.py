"""libvirt's hook, which copies the kernel and checks the root before a guest starts."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pipelines.libvirt import host_files
from pipelines.target import lock
from pipelines.target.payload import before_start
from pipelines.target.payload.errors import Refused
from pipelines.target.target import Local
from tests.support.domains import make_definition
from tests.support.planted import plant_absolute, root

__all__ = ["root"]


def test_hook_copies_the_kernel_that_the_domain_names(root: Path, tmp_path: Path) -> None:
    before_start.prepare(make_definition(root, tmp_path / "virtroot.web"))
    assert (tmp_path / "virtroot.web" / "kernel").read_bytes() == b"kernel"


def test_hook_refuses_a_planted_kernel(root: Path, tmp_path: Path) -> None:
    (root / "vmlinuz").unlink()
    plant_absolute(root / "vmlinuz")
    with pytest.raises(Refused, match="leaves the root"):
        before_start.prepare(make_definition(root, tmp_path / "virtroot.web"))


def test_without_an_initramfs_the_kernel_alone_is_copied(root: Path, tmp_path: Path) -> None:
    boot = tmp_path / "virtroot.web"
    before_start.prepare(make_definition(root, boot))
    (boot / "manifest.json").write_text("manifest")
    # An initramfs that the root has all the same is not read.
    (root / "initrd.img").unlink()
    plant_absolute(root / "initrd.img")
    before_start.prepare(make_definition(root, boot, initrd=""))
    assert {path.name: path.read_text() for path in boot.iterdir()} == {"kernel": "kernel", "manifest.json": "manifest"}


def test_without_an_initramfs_a_planted_kernel_is_refused_too(root: Path, tmp_path: Path) -> None:
    (root / "vmlinuz").unlink()
    plant_absolute(root / "vmlinuz")
    with pytest.raises(Refused, match="leaves the root"):
        before_start.prepare(make_definition(root, tmp_path / "virtroot.web", initrd=""))


def test_a_definition_with_an_initramfs_that_its_metadata_does_not_know_is_refused(root: Path, tmp_path: Path) -> None:
    changed = make_definition(root, tmp_path / "virtroot.web", initrd="").replace(
        "</kernel>", "</kernel><initrd>/x</initrd>"
    )
    with pytest.raises(Refused, match="names an initramfs"):
        before_start.prepare(changed)


def test_hook_refuses_a_root_that_another_domain_runs_on(root: Path, tmp_path: Path) -> None:
    running, own = tmp_path / "running", make_definition(root, tmp_path / "virtroot.web")
    running.mkdir()
    (running / "broken.xml").write_text("<domstatus><do")
    (running / "none.xml").write_text("<domstatus/>")
    (running / "other.pid").write_text("1")
    (running / "web.xml").write_text(f"<domstatus>{own}</domstatus>")
    (running / "else.xml").write_text(f"<domstatus>{make_definition(tmp_path, tmp_path / 'virtroot.else')}</domstatus>")
    before_start.prepare(own, str(running))
    copy = make_definition(root, tmp_path / "virtroot.web").replace("<name>web<", "<name>copy<")
    (running / "copy.xml").write_text(f"<domstatus>{copy}</domstatus>")
    with pytest.raises(Refused, match="copy runs on it, and a root is for one guest"):
        before_start.prepare(own, str(running))


def test_hook_refuses_a_guest_whose_swap_was_interrupted(root: Path, tmp_path: Path) -> None:
    own = make_definition(root, tmp_path / "virtroot.web")
    journal = root.with_name(f".{root.name}@switch")
    journal.touch()
    with pytest.raises(Refused, match="its swap with another root was interrupted"):
        before_start.prepare(own)
    journal.unlink()
    before_start.prepare(own)


def test_hook_refuses_a_guest_whose_root_a_task_has_locked(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task copies by paths, which a running guest could lead elsewhere. So virsh may not start it, either."""
    monkeypatch.setattr(before_start, "OFF_LOCK", f"{tmp_path}/off-{{}}.lock")
    own = make_definition(root, tmp_path / "virtroot.web")
    with lock.on(Local(), f"{tmp_path}/off-{root.name}.lock", "the root of web"):
        with pytest.raises(Refused, match=f"a task of virtroot works on {root.name}"):
            before_start.prepare(own)
        root.rename(root.with_name("root.other"))
        before_start.prepare(own.replace(f"/{root.name}<", "/root.other<"))
    root.with_name("root.other").rename(root)
    before_start.prepare(own)


def test_hook_leaves_other_domains_alone(tmp_path: Path) -> None:
    before_start.prepare("<domain><os><kernel>/x/kernel</kernel></os></domain>")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def hook(tmp_path: Path) -> Path:
    script = tmp_path / "hook"
    script.write_bytes(host_files.hook())
    script.chmod(0o755)
    return script


def run_hook(hook: Path, definition: str, operation: str = "prepare", **env: str) -> subprocess.CompletedProcess[str]:
    argv = [str(hook), "web", operation, "begin", "-"]
    return subprocess.run(
        argv, input=definition, env={**os.environ, **env}, text=True, capture_output=True, check=False
    )


def test_the_hook_works_as_libvirt_calls_it(root: Path, tmp_path: Path, hook: Path) -> None:
    assert run_hook(hook, make_definition(root, tmp_path / "virtroot.web")).returncode == 0
    assert (tmp_path / "virtroot.web" / "kernel").read_bytes() == b"kernel"
    (root / "vmlinuz").unlink()
    plant_absolute(root / "vmlinuz")
    done = run_hook(hook, make_definition(root, tmp_path / "virtroot.web"))
    assert done.returncode != 0
    assert done.stderr == "virtroot: vmlinuz: leaves the root through a link\n"


def test_domains_of_others_start_without_python(root: Path, tmp_path: Path, hook: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "cat").symlink_to("/usr/bin/cat")
    without = {"PATH": str(tmp_path / "bin")}
    assert run_hook(hook, "<domain><name>theirs</name></domain>", **without).returncode == 0
    ours = make_definition(root, tmp_path / "virtroot.web")
    assert run_hook(hook, ours, "started", **without).returncode == 0
    assert run_hook(hook, ours, **without).returncode != 0
