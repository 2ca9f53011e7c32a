"""What an import's scripts change in a root, on trees made for it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipelines.settings import CHECKOUT


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "system"
    (root / "etc/systemd/system").mkdir(parents=True)
    return root


def import_root(tree: Path, verb: str, *arguments: str) -> None:
    subprocess.run(["sh", str(CHECKOUT / "containerfiles/debian/import-root"), verb, str(tree), *arguments], check=True)


def test_what_dracut_would_wait_for_goes_and_the_rest_stays(tree: Path) -> None:
    path = tree / "etc/dracut.conf.d/cmdline.conf"
    path.parent.mkdir()
    path.write_text(
        'kernel_cmdline=root=/dev/sda1\nkernel_cmdline="\tquiet\tresume=/dev/sdb"\n'
        'kernel_cmdline+=" rd.luks.uuid=luks-1 quiet resume=UUID=2 rd.lvm.lv=vg/root root=/dev/vg/root "\n'
        "kernel_cmdline='resume=UUID=3 noresume splash'\nomit_drivers+=\" resume=x \"\n"
    )
    import_root(tree, "dracut", "etc/dracut.conf.d/cmdline.conf")
    bare, tabbed, first, second, third = path.read_text().splitlines()
    assert (bare, tabbed.split()) == ("kernel_cmdline=", ['kernel_cmdline="', "quiet", '"'])
    assert first.split() == ['kernel_cmdline+="', "quiet", '"']
    assert second.split() == ["kernel_cmdline='", "noresume", "splash'"]
    assert third == 'omit_drivers+=" resume=x "'


def test_presets_ask_for_the_usual_configuration_no_more(tree: Path) -> None:
    path = tree / "etc/mkinitcpio.d/linux.preset"
    path.parent.mkdir()
    kept = "ALL_kver=/boot/vmlinuz-linux\nfallback_config=/etc/mkinitcpio.conf.fallback\n"
    path.write_text(f"ALL_config='/etc/mkinitcpio.conf'\n{kept}")
    import_root(tree, "presets", "etc/mkinitcpio.d/linux.preset")
    assert path.read_text() == f"#ALL_config='/etc/mkinitcpio.conf'\n{kept}"


@pytest.mark.parametrize("unit", ["dev-sdb2.swap", r"dev-disk-by\x2duuid-1\x2d2.swap", "a b;c.swap", "[x]*.mount"])
def test_a_unit_goes_with_the_links_that_start_it(tree: Path, unit: str) -> None:
    units = tree / "etc/systemd/system"
    (units / "swap.target.wants").mkdir()
    (units / "swap.target.wants" / unit).symlink_to(f"/etc/systemd/system/{unit}")
    (units / "swap.target.wants" / "x.mount").symlink_to("/dev/null")
    (units / unit).write_text("[Swap]\nWhat=/dev/sdb2\n")
    import_root(tree, "unit", unit)
    assert [each.name for each in (units / "swap.target.wants").iterdir()] == ["x.mount"]
    assert (units / f"{unit}.before-virtroot").is_file()


OF_THE_HOST = Path("/etc/resolv.conf").read_text()


@pytest.mark.parametrize(
    "there", ["nameserver 10.0.0.1\n", "->/run/resolvconf/resolv.conf", "->../run/nm/resolv.conf", ""]
)
def test_name_servers_are_lent_and_taken_back(tree: Path, there: str) -> None:
    path = tree / "etc/resolv.conf"
    if there.startswith("->"):
        path.symlink_to(there[2:])
    elif there:
        path.write_text(there)
    script = str(CHECKOUT / "containerfiles/debian/resolver")
    subprocess.run(["sh", script, "replace", str(tree)], check=True)
    assert not path.is_symlink()
    assert path.read_text() == OF_THE_HOST
    subprocess.run(["sh", script, "take-back", str(tree)], check=True)
    now = f"->{path.readlink()}" if path.is_symlink() else path.read_text() if path.exists() else ""
    assert now == there
    assert sorted(each.name for each in path.parent.glob("resolv*")) == (["resolv.conf"] if there else [])


def test_what_a_package_makes_of_name_servers_stays(tree: Path) -> None:
    path = tree / "etc/resolv.conf"
    path.write_text("nameserver 10.0.0.1\n")
    script = str(CHECKOUT / "containerfiles/debian/resolver")
    subprocess.run(["sh", script, "replace", str(tree)], check=True)
    path.unlink()
    path.symlink_to("../run/systemd/resolve/stub-resolv.conf")
    subprocess.run(["sh", script, "take-back", str(tree)], check=True)
    assert path.is_symlink()
    assert [each.name for each in path.parent.glob("resolv*")] == ["resolv.conf"]
