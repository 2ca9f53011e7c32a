from __future__ import annotations

import pytest

from pipelines.builder import inputs
from pipelines.errors import VirtrootError
from pipelines.recipe import generators
from pipelines.recipe.mirror import MirrorState
from pipelines.recipe.parse import parse
from pipelines.recipe.plan import Plan, Surroundings, compute_plan_id, compute_stage_ids, make_plan
from pipelines.recipe.stage import CACHE, Command, Tree


def planned(text: str = "", overlay_paths: tuple[str, ...] = ()) -> Plan:
    return make_plan(parse(f"distro: debian\n{text}", "r.yaml"), overlay_paths)


def identity(plan: Plan, *, builder: str = "b", mirror: str = "m", tree: str = "t", epoch: int = 1) -> str:
    state = MirrorState(1, (mirror,))
    return compute_plan_id(plan, Surroundings(dict.fromkeys(plan.trees, tree), builder, state, epoch))


def commands(plan: Plan, stage: str) -> list[Command]:
    steps = next(each for each in plan.stages if each.name == stage).steps
    return [step for step in steps if isinstance(step, Command)]


def test_stages_come_in_the_order_of_the_design() -> None:
    names = ["base", "skeleton", "kernel", "packages", "overlay", "finish"]
    assert [stage.name for stage in planned().stages] == names


def test_id_changes_with_whatever_decides_the_bytes() -> None:
    plan = planned()
    ids = [
        identity(plan),
        identity(plan, builder="other"),
        identity(plan, mirror="other"),
        identity(plan, tree="other"),
        identity(plan, epoch=2),
        identity(planned("release: bookworm")),
        identity(planned("bootstrap: mmdebstrap")),
        identity(planned("packages: [vim-tiny]")),
        identity(planned("run: [id]")),
    ]
    assert len(set(ids)) == len(ids)


def ids(plan: Plan, *, mirror: str = "m", **trees: str) -> tuple[str, ...]:
    """The stages' ids where trees of the kinds given have that content."""
    digests = {tree: trees.get(tree.kind, "t") for tree in plan.trees}
    return compute_stage_ids(plan, Surroundings(digests, "b", MirrorState(1, (mirror,)), 1))


@pytest.mark.parametrize(
    ("former", "now", "alike"),
    [
        ("", "", 6),
        ("", "guest: {memory: 4GiB}", 6),
        ("", "run: [id]", 4),
        ("run: [id]", "run: [whoami]", 4),
        ("packages: [nano]", "packages: [nano, vim-tiny]", 3),
        ("", "kernel: linux-image-amd64", 2),
        ("", "generator: dracut", 1),
        ("", "bootstrap: mmdebstrap", 0),
    ],
)
def test_plans_share_the_ids_of_the_stages_that_they_begin_with(former: str, now: str, alike: int) -> None:
    pairs = list(zip(ids(planned(former)), ids(planned(now)), strict=True))
    assert [one == other for one, other in pairs] == [True] * alike + [False] * (6 - alike)


def test_an_overlay_decides_its_own_stage_and_what_follows() -> None:
    plan = planned("overlay: tree", ("etc/motd",))
    pairs = zip(ids(plan, overlay="a"), ids(plan, overlay="b"), strict=True)
    assert [one == other for one, other in pairs] == [True, True, True, True, False, False]
    assert not set(ids(plan, mirror="a")) & set(ids(plan, mirror="b"))


def test_what_a_builder_trusts_counts_in_every_stage() -> None:
    checked = arch("mirror: {url: http://a.example, keyring: key.asc}")
    unchecked = arch("mirror: {url: http://a.example}", "siglevel: never")
    assert not set(ids(checked)) & set(ids(unchecked))
    assert not set(ids(checked, keyring="a")) & set(ids(checked, keyring="b"))


def test_no_root_is_kept_that_the_recipes_author_had_a_hand_in() -> None:
    for plan, expected in ((planned(), ["base", "kernel", "packages"]), (arch(), ["base", "packages"])):
        foreign = [stage.foreign for stage in plan.stages].index(True)
        assert [stage.name for stage in plan.stages[:foreign] if stage.cached] == expected
        assert not any(stage.cached for stage in plan.stages[foreign:])


def test_id_does_not_change_with_the_guests_memory() -> None:
    assert identity(planned("guest: {memory: 4GiB}")) == identity(planned())


def test_the_kernel_is_installed_after_the_skeleton_and_once() -> None:
    plan = planned("packages: [nano]")
    names = [stage.name for stage in plan.stages]
    assert names.index("skeleton") < names.index("kernel")
    assert Tree("skeleton", "initramfs-tools") in plan.trees
    installs = [each.argv for each in commands(plan, "kernel") if {"dist-upgrade", "install"} & set(each.argv)]
    assert ["linux-image-cloud-amd64" in argv for argv in installs] == [False, True]
    assert ["initramfs-tools" in argv for argv in installs] == [True, False]
    (install,) = [each.argv for each in commands(plan, "packages") if "install" in each.argv]
    assert install[-2:] == ("install", "nano")


def test_a_stage_that_may_begin_in_another_builder_updates_the_lists_there() -> None:
    plan = planned("packages: [nano]")
    for stage in ("kernel", "packages"):
        (update,) = [each.argv for each in commands(plan, stage) if "update" in each.argv]
        assert update[:2] == ("sh", "-ec")
    assert commands(planned(), "packages") == []


@pytest.mark.parametrize(("distro", "generator"), sorted(generators.GENERATORS))
def test_the_kernel_is_told_the_tag_and_virtiofs(distro: str, generator: str) -> None:
    recipe = parse(f"distro: {distro}\ngenerator: {generator}\noverlay: tree", "r.yaml")
    words = make_plan(recipe, generators.get_generator(recipe).unpackaged).cmdline.split()
    assert {"root=root", "rootfstype=virtiofs", "rw"} <= set(words)
    assert [word for word in words if word.startswith("root=")] == ["root=root"]


@pytest.mark.parametrize(("distro", "generator"), sorted(generators.GENERATORS))
def test_no_boot_path_has_a_kernels_version(distro: str, generator: str) -> None:
    # A domain's XML cannot follow one; only the package's name may be in them.
    row = generators.GENERATORS[distro, generator]
    assert row.kernel in {"vmlinuz", "boot/vmlinuz-{kernel}"}
    assert row.initrd in {"", "initrd.img", "boot/initramfs-{kernel}.img", "boot/booster-{kernel}.img"}


def test_no_initramfs_is_generated_again_without_a_reason() -> None:
    regenerate = Command(("update-initramfs", "-u", "-k", "all"), chroot=True)
    assert regenerate not in commands(planned("overlay: tree", ("etc/motd",)), "overlay")
    assert regenerate in commands(planned("overlay: tree", ("etc/initramfs-tools/modules",)), "overlay")


@pytest.mark.parametrize(("distro", "stage"), [("debian", "kernel"), ("arch", "packages")])
def test_without_a_generator_an_empty_package_keeps_the_kernel_from_bringing_one(distro: str, stage: str) -> None:
    plan = inputs.find(distro, overrides={"generator": "none"}).plan
    argvs = [each.argv for each in commands(plan, stage)]
    (placeholder,) = [index for index, argv in enumerate(argvs) if argv[0].endswith("/stand-for-generator")]
    assert argvs[placeholder][-1] == "virtroot-no-initramfs"
    # Before the kernel, whose dependency it satisfies.
    assert [index > placeholder for index, argv in enumerate(argvs) if plan.recipe.kernel in argv] == [True]
    assert not {"initramfs-tools", "mkinitcpio"} & {word for argv in argvs for word in argv}
    assert plan.cmdline == "root=root rootfstype=virtiofs rw console=ttyS0"


def test_a_generator_without_a_package_asks_for_its_programs_in_the_overlay() -> None:
    programs = ("usr/bin/booster", "usr/lib/booster/init")
    recipe = "generator: booster\noverlay: tree"
    for given in ((), programs[:1], programs[1:]):
        with pytest.raises(VirtrootError, match="no package in debian"):
            planned(recipe, given)
    plan = planned(recipe, programs)
    scripts = [each.argv[0].rpartition("/")[2] for each in commands(plan, "kernel")]
    assert scripts.count("stand-for-generator") == 1
    assert "virtroot-booster" in commands(plan, "overlay")[-1].argv[-1]
    assert planned().cmdline == "root=root rootfstype=virtiofs rw console=ttyS0"
    assert plan.cmdline == f"{planned().cmdline} rdinit=/usr/lib/virtroot/init"


def test_keys_are_refreshed_only_where_signatures_count() -> None:
    def scripts(siglevel: str) -> list[str]:
        plan = make_plan(parse(f"distro: arch\nsiglevel: {siglevel}", "r.yaml"))
        return [step.argv[0].rpartition("/")[2] for step in plan.builder_setup if isinstance(step, Command)]

    assert scripts("required") == ["write-config", "refresh-keys"]
    assert scripts("never") == ["write-config"]


def arch(*lines: str, overlay_paths: tuple[str, ...] = ()) -> Plan:
    return make_plan(parse("\n".join(("distro: arch", *lines)), "r.yaml"), overlay_paths)


def test_keyrings_of_one_file_name_have_places_of_their_own() -> None:
    mirrors = [f"{{url: http://{name}.example, keyring: {name}/key.asc}}" for name in ("a", "b")]
    plan = arch(f"mirror: [{', '.join(mirrors)}]")
    trees = [step for step in plan.builder_setup if isinstance(step, Tree)]
    assert [tree.name for tree in trees] == ["a/key.asc", "b/key.asc"]
    assert len({tree.builder for tree in trees}) == 2
    trust = next(step for step in plan.builder_setup if isinstance(step, Command))
    assert trust.argv[0].endswith("/trust-keys")
    assert trust.argv[2:] == tuple(f"{tree.builder}/key.asc" for tree in trees)


def test_a_keyring_of_two_mirrors_is_trusted_once() -> None:
    plan = arch("mirror: [{url: http://a.example, keyring: key.asc}, {url: http://b.example, keyring: key.asc}]")
    assert sum(isinstance(step, Tree) for step in plan.builder_setup) == 1


def test_an_arch_root_gets_the_public_keys_of_the_recipe_and_keeps_no_keyring() -> None:
    def published(*lines: str) -> list[str]:
        install = [step.argv for step in commands(arch(*lines), "skeleton") if step.argv[0] == "install"]
        return [path.rpartition("/")[2] for argv in install for path in argv if path.startswith("/etc/virtroot/")]

    assert published() == []
    assert published("mirror: {url: http://a.example, keyring: key.asc}") == [
        "virtroot.gpg",
        "virtroot-trusted",
        "virtroot-revoked",
    ]
    assert Command(("rm", "-rf", "/etc/pacman.d/gnupg"), chroot=True) in commands(arch(), "finish")


def test_a_keyring_is_lent_to_commands_in_an_arch_root() -> None:
    def lent(*lines: str) -> list[str]:
        return [step.argv[-1] for step in commands(arch(*lines), "packages")]

    assert "/usr/lib/virtroot/pacman-keyring" not in lent()
    assert lent("run: [pacman -Sy nano]")[-1] == "/usr/lib/virtroot/pacman-keyring"


def test_the_package_cache_of_pacman_is_named_once() -> None:
    steps = [*arch().builder_setup, *(step for stage in arch().stages for step in stage.steps)]
    naming = [step.argv[0] for step in steps if isinstance(step, Command) and f"{CACHE}/pkg" in step.argv]
    assert [program.rpartition("/")[2] for program in naming] == ["write-config"]


def test_a_recipes_mirror_reaches_bootstrap_and_apt_sources() -> None:
    plan = planned("mirror: http://mirror.example/debian")
    assert "http://mirror.example/debian" in commands(plan, "base")[0].argv
    assert "http://mirror.example/debian" in commands(plan, "kernel")[0].argv
    assert "http://mirror.example/debian" in plan.mirror_query.argv


def test_run_commands_are_passed_whole_to_a_shell_in_the_root() -> None:
    script = 'echo "a; b" && $(true)'
    runs = [each for each in commands(planned(f"run: ['{script}']"), "overlay") if each.chroot]
    assert [each.argv for each in runs] == [("sh", "-ec", script)]
