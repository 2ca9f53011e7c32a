"""The invoke front end: a task parses, calls one pipeline, prints."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from invoke.collection import Collection
from invoke.context import Context
from invoke.tasks import task

from pipelines.cli import lazy
from pipelines.cli.program import Program
from pipelines.complete import NAMES
from pipelines.errors import VirtrootError
from pipelines.log import result, result_lines, say
from pipelines.settings import Settings, defaults, from_section, time_span

# Each task uses a few of them.
with lazy.imports():
    from pipelines import build as building
    from pipelines import clone as cloning
    from pipelines import demo as demonstrate
    from pipelines import diff as differing
    from pipelines import doctor as examining
    from pipelines import exec as executing
    from pipelines import help as explaining
    from pipelines import import_system as importing
    from pipelines import install as installing
    from pipelines import list as listing
    from pipelines import logs as reading
    from pipelines import nightly as running
    from pipelines import promote as promoting
    from pipelines import prune as pruning
    from pipelines import remove as removing
    from pipelines import rollback as returning
    from pipelines import run as trying
    from pipelines import setup as preparing
    from pipelines import share as sharing
    from pipelines import snapshot as keeping
    from pipelines import ssh as reaching
    from pipelines import start as starting
    from pipelines import status as faring
    from pipelines import test as checks
    from pipelines import upgrade as upgrading
    from pipelines import upgrade_all as upgrading_all
    from pipelines import verify as verifying
    from pipelines.book import reference
    from pipelines.book import site as publishing
    from pipelines.builder import inputs
    from pipelines.guest import asks
    from pipelines.merge import moving
    from pipelines.merge import preview as previewing
    from pipelines.night import timer as timing
    from pipelines.night import units
    from pipelines.pool import place
    from pipelines.recipe import plan as planning


def _settings(context: Context, **given: str) -> Settings:
    return from_section({**context.config.virtroot, **{key: value for key, value in given.items() if value}})


_RECIPE = {
    "distro": "recipe by name: recipes/NAME.yaml",
    "recipe": "recipe by file",
    "release": "override the recipe's release",
    "generator": "override the recipe's initramfs generator",
    "mirror": "override the recipe's mirror",
    "bootstrap": "override the recipe's bootstrap tool",
    "snapshot": "make it from the dated archive, as it was at a time like 20261101T000000Z",
}
_ACCEPT = {"accept": "let the host give what the recipe asks of it: shares, overlayfs, a network; do not ask"}
_WHERE = {"connect": "auto, embedded or qemu:///system"}
_BUILD = {
    "artifact": "a build: RECIPE/BUILD, RECIPE/latest, latest~3 (the third before it)",
    "recipe": "the recipe that latest is of, by name or file",
}
_GUEST = {"name": "the guest's name", **_WHERE}


@task(help={**_RECIPE, "no-cache": "make everything anew, also where nothing changed"})
def build(  # type: ignore[no-untyped-def]
    c, distro="", recipe="", release="", generator="", mirror="", bootstrap="", snapshot="", no_cache=False,
):  # fmt: skip
    """Build a golden root, from the first stage on that changed; prints the artifact's path.

    ./inv build --distro debian
    ./inv build --recipe recipes/web.yaml --no-cache
    """
    settings = _settings(c)
    overrides = {"release": release, "generator": generator, "mirror": mirror, "bootstrap": bootstrap}
    found = inputs.find(distro, recipe, {**overrides, "snapshot": snapshot}, snapshots=settings.snapshots)
    result(str(building.build(found, settings, fresh=no_cache).directory))


@task(help={**_RECIPE, "json": "print JSON"})
def plan(  # type: ignore[no-untyped-def]
    c, distro="", recipe="", release="", generator="", mirror="", bootstrap="", snapshot="", json=False,
):  # fmt: skip
    """Print what a build would do; needs no engine and changes nothing.

    ./inv plan --distro debian
    """
    overrides = {"release": release, "generator": generator, "mirror": mirror, "bootstrap": bootstrap}
    known = _settings(c).snapshots
    planned = inputs.find(distro, recipe, {**overrides, "snapshot": snapshot}, snapshots=known).plan
    _print(planning.as_data(planned) if json else planning.as_text(planned))


@task(
    positional=["name"],
    iterable=["share"],
    help={
        **_GUEST,
        "distro": "install the latest build of this recipe",
        "recipe": "install the latest build of this recipe file",
        "artifact": "install the artifact in this directory",
        "pool": "libvirt's dir pool",
        "pool-path": "where to make the pool when it is missing",
        "memory": "override the recipe's memory, like 2GiB",
        "vcpus": "override the recipe's number of CPUs",
        "ssh-key": "public key file of who may log in as root, instead of your own; none for nobody",
        "hostname": "host name, when it is not the guest's name",
        "cache": "override the recipe's cache of virtiofsd: auto, mixed, always or none",
        "share": "TAG:HOSTDIR:GUESTPATH[:ro][:create], a further directory; may be given several times",
        "overlayfs": "let the guest mount overlayfs (Docker); virtiofsd then keeps CAP_SYS_ADMIN on the host",
        "clone": "how the root is made: auto (the best there is), snapshot, reflink, overlay or copy",
        "print-xml": "print the domain's XML and change nothing",
        **_ACCEPT,
    },
)
def install(  # type: ignore[no-untyped-def]
    c, name, share, distro="", recipe="", artifact="", connect="", pool="", pool_path="",
    memory="", vcpus=0, ssh_key="", hostname="", cache="", overlayfs=False, clone="auto",
    print_xml=False, accept=False,
):  # fmt: skip
    """Install an artifact as a guest, defined and shut off.

    ./inv install web --distro debian
    ./inv install db --distro debian --memory 4GiB --share data:common:/srv/data
    """
    settings = _settings(c, connect=connect, pool=pool, pool_path=pool_path)
    made, kind = inputs.artifact(settings, name, distro, recipe, artifact)
    say(f"{name} is made from {f'the {kind} {made.id}' if kind != 'artifact' else made.directory}")
    more = {"cache": cache, "overlayfs": overlayfs, "share": share, "clone": clone, "consent": _consent(accept)}
    key = installing.own_key(made) if not ssh_key else "" if ssh_key == "none" else ssh_key
    options = installing.options(memory, vcpus, hostname, key, **more)
    if print_xml:
        result(installing.print_xml(name, made, options, settings))
    else:
        domain = installing.install(name, made, options, settings)
        say(f"installed in {domain.root}; boot it: ./inv start {name}")


@task(
    name="import",
    positional=["name", "source"],
    help={
        "name": "what it is kept and installed as",
        "source": "the directory that is the system's /, a tarball of it, or its disk's image",
        "root-device": "of several systems on a disk the one whose root is on this device, as the error lists them",
        "key": "file with the passphrase of an encrypted disk",
        "include-mounts": "bring along what is mounted in the directory besides the system's own parts",
        "generator": "which of its initramfs generators makes the image, where it has several; none for no initramfs",
        "keep-identity": "keep host name, machine-id and ssh host keys: the system moves",
        "shift-ids": "move owners back that an unprivileged container shifted by this number; auto finds it",
    },
)
def import_task(  # type: ignore[no-untyped-def]
    c, name, source, generator="", root_device="", key="", include_mounts=False, keep_identity=False, shift_ids="",
):  # fmt: skip
    """Bring in an existing system, changed so that it boots from virtiofs; prints the artifact's path.

    ./inv import web /srv/old/web.qcow2
    """
    disk = {"root_device": root_device, "key": key}
    options = {"generator": generator, "include_mounts": include_mounts, "keep_identity": keep_identity}
    disk["shift_ids"] = shift_ids
    made = importing.import_system(name, source, _settings(c), **options, **disk)
    result(str(made.directory))


@task(
    help={
        **_GUEST,
        "share": "TAG:HOSTDIR:GUESTPATH[:ro][:create]; HOSTDIR is a directory of libvirt's machine, or a name",
    }
)
def share(c, name, share, connect=""):  # type: ignore[no-untyped-def]
    """Give a guest that is off a further directory.

    ./inv share web data:/srv/data:/srv/data:ro
    """
    given = sharing.share(name, sharing.read(share), _settings(c, connect=connect))
    say(f"{name} has {given.directory} as {given.tag} from its next start on")


@task(help={**_GUEST, "tag": "the share's tag"})
def unshare(c, name, tag, connect=""):  # type: ignore[no-untyped-def]
    """Take a share from a guest that is off; what is in it stays.

    ./inv unshare web data
    """
    directory = sharing.unshare(name, tag, _settings(c, connect=connect))
    say(f"{name} has no share {tag} any more{f'; {directory} stays as it is' if directory else ''}")


_DECIDE = {
    "take": "old PATH or new PATH: the guest's or the other root's of what both changed in /etc; several times",
    "keep": "PATH to carry over with all that is in it, now and at later upgrades; several times",
    "discard": "PATH or PACKAGE to leave behind; several times",
    "preview": "show what would become of the guest, and change nothing",
    "json": "print what becomes of the guest as JSON",
}
_RESTART = {"restart": "shut the guest down for it where it runs, and boot it again"}


@task(
    positional=["name"],
    iterable=["take", "keep", "discard"],
    help={
        **_GUEST,
        "to": "RECIPE/BUILD, golden, latest, or an artifact's directory; else the golden root of the guest's recipe",
        **_DECIDE,
        "restart": "shut the guest down for it where it runs, boot and verify it, and go back where that fails",
        "again": "take an artifact that this guest failed on before",
        "clone": "how the root is made: auto (the best there is), snapshot, reflink, overlay or copy",
        "all": "every guest that is not on its recipe's golden root; with a name and --preview: show all of it",
    },
)
def upgrade(  # type: ignore[no-untyped-def]
    c, take, keep, discard, name="", to="", preview=False, restart=False, again=False, clone="auto", all=False,  # noqa: A002 - the option
    json=False, connect="",
):  # fmt: skip
    """Put a guest on a newer golden root, with all that is its own; its former root stays for ./inv rollback.

    ./inv upgrade web --preview
    ./inv upgrade web --restart --keep /var/lib/docker --take old /etc/motd
    """
    settings = _settings(c, connect=connect)
    options = upgrading.options(upgrading.choices(take, keep, discard), clone=clone, restart=restart, again=again)
    if not name:
        if not all or to or take or keep or discard:
            raise VirtrootError(
                "upgrade which guest?", "name one; or give --all, and no decisions, which are a guest's own"
            )
        _upgrade_all(options, settings, preview=preview, json=json)
        return
    if all and not preview:
        raise VirtrootError(f"--all and {name}", "leave one out; --all shows all of a --preview")
    made = upgrading.artifact(name, to, settings)
    if preview:
        _show_move(upgrading.preview(name, made, options, settings), everything=all, json=json)
        return
    asked = to or take or keep or discard or clone != "auto"
    if stays := "" if asked else upgrading.stays(name, made, settings):
        say(f"{name} {stays}")
        if json:
            _print({"stays": stays})
        return
    move = upgrading.upgrade(name, made, options, settings)
    if json:
        _print(previewing.as_data(move))
    say(f"{name} is on {made.id}; back to the root before: ./inv rollback {name}")


def _upgrade_all(options: upgrading.UpgradeOptions, settings: Settings, *, preview: bool, json: bool) -> None:
    if not preview:
        if json:
            raise VirtrootError(
                "--all and --json without --preview", "--json shows what would be done: give --preview, too"
            )
        upgrading_all.upgrade_all((), options, settings)
        return
    told: dict[str, object] = {}
    try:
        for name, move in upgrading_all.previews(options, settings):
            if json:
                told[name] = {"stays": move} if isinstance(move, str) else previewing.as_data(move)
                continue
            if isinstance(move, str):
                result_lines([f"{name} {move}"])
                continue
            result(name)
            lines = previewing.as_lines(move, more=f"./inv upgrade {name} --preview --all")
            result_lines(f"  {line}" for line in lines)
    finally:
        # What can be told of the others is.
        if json:
            _print(told)


def _show_move(move: moving.Move, *, everything: bool, json: bool) -> None:
    if json:
        _print(previewing.as_data(move))
        return
    result_lines(previewing.as_lines(move, everything=everything))


@task(
    positional=["name"],
    iterable=["take", "keep", "discard"],
    help={
        **_GUEST,
        **_RESTART,
        "carry": "take along what the guest wrote since, into a copy of the former root",
        **_DECIDE,
        "all": "with --carry --preview: show all, however much it is",
    },
)
def rollback(  # type: ignore[no-untyped-def]
    c, name, take, keep, discard, carry=False, restart=False, preview=False, all=False, json=False,  # noqa: A002 - the option
    connect="",
):  # fmt: skip
    """Put a guest back on the root that it had before its last upgrade, alone or with what it wrote since.

    ./inv rollback web --preview
    ./inv rollback web --restart --carry
    """
    settings = _settings(c, connect=connect)
    choices = upgrading.choices(take, keep, discard)
    if not carry and (take or keep or discard):
        raise VirtrootError("--take, --keep and --discard are about what is carried along", "give --carry, too")
    if all and not (preview and carry):
        raise VirtrootError("--all is about a preview of what is carried along", "give --preview --carry, too")
    if preview and carry:
        _show_move(returning.preview(name, choices, settings), everything=all, json=json)
        return
    if preview:
        written = returning.written(name, settings)
        if json:
            _print(differing.changes_as_data(written))
        else:
            result_lines(differing.changes_as_lines(written, since="it got its root"))
        return
    if json:
        raise VirtrootError("--json without --preview", "--json shows what would be done: give --preview, too")
    former = returning.rollback(name, settings, restart=restart, carry=choices if carry else None)
    say(f"{name} is on {former.made.artifact} again; to the root that it left: ./inv rollback {name}")


@task(
    positional=["name", "snapshot"],
    help={**_GUEST, "snapshot": "what it is called; the time, where it has no name", **_RESTART},
)
def snapshot(c, name, snapshot="", restart=False, connect=""):  # type: ignore[no-untyped-def]
    """Keep the state that a guest's root has now.

    ./inv snapshot web before
    """
    taken, how = keeping.take(name, snapshot, _settings(c, connect=connect), restart=restart)
    say(f"snapshot {taken} of {name}, {how}; back to it: ./inv restore {name} {taken}")


@task(
    positional=["name", "snapshot"],
    help={**_GUEST, "snapshot": "one that ./inv snapshots shows", **_RESTART},
)
def restore(c, name, snapshot, restart=False, connect=""):  # type: ignore[no-untyped-def]
    """Give a guest's root the state of a snapshot; what that replaces becomes a snapshot itself.

    ./inv restore web before
    """
    kept = keeping.restore(name, snapshot, _settings(c, connect=connect), restart=restart)
    say(f"{name} is as it was at {snapshot}; what that replaced: ./inv snapshots {name} --remove {kept}")


@task(
    help={**_GUEST, "remove": "delete this one, for good", "yes": "do not ask", "json": "print JSON"},
)
def snapshots(c, name, remove="", yes=False, json=False, connect=""):  # type: ignore[no-untyped-def]
    """List the snapshots of a guest, or delete one of them.

    ./inv snapshots web
    ./inv snapshots web --remove before
    """
    settings = _settings(c, connect=connect)
    if remove:
        keeping.delete(name, remove, settings, asking=None if yes else _ask)
        say(f"{name} has no snapshot {remove} any more")
        return
    found = keeping.listing(name, settings)
    _print(found if json else keeping.as_table(found))


@task(
    positional=["name"],
    help={
        **_GUEST,
        "distro": "check the latest build of this recipe",
        "recipe": "check the latest build of this recipe file",
        "boot": "check the running guest too, starting it when it is shut off",
    },
)
def verify(c, name="", distro="", recipe="", boot=False, connect=""):  # type: ignore[no-untyped-def]
    """Check an artifact's tree, an installed root or (--boot) a running guest.

    ./inv verify --distro debian
    ./inv verify web --boot
    """
    settings = _settings(c, connect=connect)
    if name:
        verifying.verify_guest(name, settings, boot=boot)
    else:
        verifying.verify_artifact(inputs.find(distro, recipe, snapshots=settings.snapshots), settings)


@task(
    iterable=["share"],
    help={
        "distro": "of which recipe; debian, where nothing is said",
        "recipe": "of which recipe file",
        "artifact": "of the artifact in this directory",
        "memory": "override the recipe's memory, like 2GiB",
        "vcpus": "override the recipe's number of CPUs",
        "share": "TAG:HOSTDIR:GUESTPATH[:ro][:create], a further directory; may be given several times",
        "overlayfs": "let the guest mount overlayfs (Docker)",
        **_ACCEPT,
        **_WHERE,
    },
)
def run(  # type: ignore[no-untyped-def]
    c, share, distro="", recipe="", artifact="", memory="", vcpus=0, overlayfs=False, accept=False,
    connect="",
):  # fmt: skip
    """Run a command, or a shell, in a guest that is thrown away.

    ./inv run --distro debian -- uname -r
    """
    settings = _settings(c, connect=connect)
    distro = distro or ("" if recipe or artifact else "debian")
    made, _ = inputs.artifact(settings, "", distro, recipe, artifact)
    more = {"cache": "always", "overlayfs": overlayfs, "share": share, "consent": _consent(accept)}
    options = installing.options(memory, vcpus, "", "", **more)
    sys.exit(trying.run(made, options, _after_dashes(), settings))


@task(
    positional=["name", "to"],
    help={
        "name": "the guest that is cloned, which has to be off",
        "to": "the new guest's name",
        "clone": "auto (the best there is), snapshot, reflink or copy",
        "hostname": "host name, when it is not the guest's name",
        **_WHERE,
    },
)
def clone(c, name, to, clone="auto", hostname="", connect=""):  # type: ignore[no-untyped-def]
    """Make another guest with the root that a guest has now, and an identity of its own.

    ./inv clone web web2
    """
    made = cloning.clone(name, to, clone, _settings(c, connect=connect), hostname=hostname)
    say(f"cloned into {made.root}; boot it: ./inv start {to}")


@task(help=_GUEST)
def start(c, name, connect=""):  # type: ignore[no-untyped-def]
    """Boot a guest and wait until it is up.

    ./inv start web
    """
    say(f"{name} is up after {starting.start(name, _settings(c, connect=connect)):.1f} s")


@task(help={**_GUEST, "force": "pull the plug"})
def stop(c, name, force=False, connect=""):  # type: ignore[no-untyped-def]
    """Shut a guest down.

    ./inv stop web
    ./inv stop web --force
    """
    say(f"{name} is off after {starting.stop(name, _settings(c, connect=connect), force=force):.1f} s")


@task(help={**_GUEST, "force": "pull the plug instead of asking the guest"})
def restart(c, name, force=False, connect=""):  # type: ignore[no-untyped-def]
    """Stop a guest where it runs, and boot it with the kernel that its root has now.

    ./inv restart web
    """
    say(f"{name} is up again after {starting.restart(name, _settings(c, connect=connect), force=force):.1f} s")


@task(help=_GUEST)
def refresh(c, name, connect=""):  # type: ignore[no-untyped-def]
    """Let a guest with cache mixed or always see what was edited on the host.

    ./inv refresh web
    """
    executing.refresh(name, _settings(c, connect=connect))
    say(f"{name} reads anew what it had kept")


@task(help=_GUEST)
def wait(c, name, connect=""):  # type: ignore[no-untyped-def]
    """Wait until a guest that was started elsewhere is up.

    ./inv wait web
    """
    say(f"{name} is up after {starting.wait(name, _settings(c, connect=connect)):.1f} s")


@task(help=_GUEST)
def console(c, name, connect=""):  # type: ignore[no-untyped-def]
    """Join a guest's serial console; Ctrl-] leaves it.

    ./inv console web
    """
    sys.exit(executing.console(name, _settings(c, connect=connect)))


@task(help=_GUEST)
def exec(c, name, connect=""):  # type: ignore[no-untyped-def] # noqa: A001
    """Run a command in a guest through its agent.

    ./inv exec web -- uname -r
    """
    sys.exit(executing.execute(name, _after_dashes(), _settings(c, connect=connect)))


_USER = {"user": "log in as this user"}


@task(help={**_GUEST, **_USER})
def ssh(c, name, user="root", connect=""):  # type: ignore[no-untyped-def]
    """Log in to a guest by ssh, or run a command there.

    ./inv ssh web
    ./inv ssh web -- journalctl -b
    """
    sys.exit(reaching.ssh(name, _after_dashes(), _settings(c, connect=connect), user=user))


@task(help={**_WHERE, **_USER})
def ssh_config(c, user="root", connect=""):  # type: ignore[no-untyped-def]
    """Print what lets plain ssh, scp and rsync reach every guest by its name, to be included in ~/.ssh/config.

    ./inv ssh-config > ~/.ssh/virtroot
    """
    result(reaching.config(_settings(c, connect=connect), user=user))


@task(help=_GUEST)
def ssh_proxy(c, name, connect=""):  # type: ignore[no-untyped-def]
    """Join standard input and output to a guest's sshd: what ssh-config names as ProxyCommand.

    ./inv ssh-proxy web
    """
    reaching.proxy(name, _settings(c, connect=connect))


@task(
    positional=["source", "destination"],
    help={
        "source": "a file here, or GUEST:PATH",
        "destination": "where to, the other one of the two",
        **_WHERE,
        **_USER,
    },
)
def cp(c, source, destination, user="root", connect=""):  # type: ignore[no-untyped-def]
    """Copy a file into a guest or out of it, running or not.

    ./inv cp page.html web:/srv/www/
    ./inv cp web:/var/log/dpkg.log .
    """
    sys.exit(reaching.copy(source, destination, _settings(c, connect=connect), user=user))


@task(name="list", help={**_WHERE, "shares": "list what is shared, and with whom", "json": "print JSON"})
def list_guests(c, shares=False, json=False, connect=""):  # type: ignore[no-untyped-def]
    """List the guests.

    ./inv list
    ./inv list --shares
    """
    settings = _settings(c, connect=connect)
    if shares:
        shared = sharing.listing(settings)
        _print(shared if json else sharing.as_table(shared))
        return
    guests = listing.listing(settings)
    _print(guests if json else listing.as_table(guests))


@task(help={**_GUEST, "json": "print JSON"})
def info(c, name, json=False, connect=""):  # type: ignore[no-untyped-def]
    """Say what there is to know of a guest.

    ./inv info web
    """
    facts = listing.info(name, _settings(c, connect=connect))
    _print(facts if json else listing.as_lines(facts))


@task(
    help={
        **_GUEST,
        "virtiofsd": "the log of the daemon that serves the root, instead of the console's",
        "qemu": "libvirt's log of QEMU",
        "follow": "go on with what comes; Ctrl-C ends it",
    }
)
def logs(c, name, virtiofsd=False, qemu=False, follow=False, connect=""):  # type: ignore[no-untyped-def]
    """Print what a guest wrote to its console since its last start, or a log of what serves it.

    ./inv logs web
    ./inv logs web --virtiofsd
    """
    if virtiofsd and qemu:
        raise VirtrootError("--virtiofsd and --qemu both given", "give one of them")
    which = "virtiofsd" if virtiofsd else "qemu" if qemu else "console"
    for piece in reading.log(name, _settings(c, connect=connect), which=which, follow=follow):
        result(piece, end="")


@task(help={**_GUEST, "yes": "do not ask"})
def remove(c, name, yes=False, connect=""):  # type: ignore[no-untyped-def]
    """Delete a guest and its root.

    ./inv remove web
    """
    settings = _settings(c, connect=connect)
    removing.remove(name, settings, asking=None if yes else _ask)
    say(f"removed {name}")


@task(
    iterable=["recipe"],
    help={
        "recipe": "a recipe by name or file instead of all in recipes/; may be given several times",
        "keep": "how many builds of each recipe are left",
        "jobs": "how many recipes are at work side by side",
        "on-failure": "run this command when a recipe begins to fail, the record on its standard input",
        "on-change": "run this command when a recipe begins to fail or is in order again",
        "accept": "let the host give what recipes from outside the checkout ask of it, too: overlayfs, a network",
        **_WHERE,
    },
)
def nightly(  # type: ignore[no-untyped-def]
    c, recipe, keep="", jobs=1, on_failure="", on_change="", accept=False, connect="",
):  # fmt: skip
    """Build, boot, verify and promote each recipe; one that fails keeps its golden root.

    ./inv nightly
    ./inv nightly --recipe web --keep 3 --jobs 2
    """
    given = {"keep": keep, "on_failure": on_failure, "on_change": on_change, "connect": connect}
    settings = _settings(c, **given)
    sources = [inputs.source(each) for each in recipe] or inputs.nightly()
    running.nightly(sources, settings, keep=settings.keep, jobs=jobs, accept=accept)


@task(
    iterable=["recipe"],
    help={
        "install": "write the units, or write them anew, and start the timer",
        "remove": "stop the timer and delete the units",
        "show": "print the units, and when the next night begins",
        "on-calendar": f"when: a calendar event of systemd's instead of '{units.ON_CALENDAR}'",
        "recipe": "a recipe by name or file instead of all in recipes/; may be given several times",
        "keep": "how many builds of each recipe are left",
        "jobs": "how many recipes are at work side by side",
        "accept": "let the host give what recipes from outside the checkout ask of it, too: overlayfs, a network",
        "user": "your own systemd runs it, not the machine's",
    },
)
def nightly_timer(  # type: ignore[no-untyped-def]
    c, recipe, install=False, remove=False, show=False, on_calendar="", keep="", jobs=1, accept=False, user=False
):
    """Let systemd run ./inv nightly of this checkout; without systemd, print the line for a crontab.

    ./inv nightly-timer --install --jobs 2
    ./inv nightly-timer --show
    """
    if [install, remove, show].count(True) != 1:
        raise VirtrootError("what is wanted of the timer?", "give one of --install, --remove and --show")
    named = bool(on_calendar or recipe or keep or jobs != 1 or accept)
    where = timing.systemd(user=user)
    if remove:
        if named:
            raise VirtrootError("--remove has no use for options of a night", "give it alone, or with --user")
        say("the timer is gone" if timing.remove(where) else "there is no timer of this checkout")
        return
    settings = _settings(c, keep=keep)
    recipes = [each if each in inputs.names() else str(inputs.source(each).resolve()) for each in recipe]
    for each in recipes:
        inputs.find(recipe=str(inputs.source(each)), snapshots=settings.snapshots)
    given = {"keep": keep, "jobs": jobs, "accept": accept, "user": user}
    wanted = timing.schedule(settings, on_calendar, recipes, **given, writable=place.WRITTEN)
    if not where.runs:
        result(timing.crontab(wanted))
    elif show:
        result(timing.show(wanted, where, preview=named))
    if install:
        timing.install(wanted, where)
        say(f"installed; the next night: {timing.next_run() or 'not known'}")


@task(help={"max-age": "how old the last good night of a recipe may be, like 36h", "json": "print JSON"})
def status(c, max_age="", json=False):  # type: ignore[no-untyped-def]
    """Say how each recipe fares; exit 1 where one had no good night for too long.

    ./inv status
    ./inv status --max-age 36h
    """
    settings = _settings(c, max_age=max_age)
    rows = faring.status(settings)
    _print(rows if json else faring.as_table(rows))
    following = timing.next_run()
    if following and not json:
        result(f"next night: {following}")
    faring.refuse_stale(rows, settings.max_age)


@task(positional=["artifact"], help=_BUILD)
def promote(c, artifact, recipe=""):  # type: ignore[no-untyped-def]
    """Let a build that passed in a booted guest be its recipe's golden root.

    ./inv promote debian/latest
    """
    say(f"{promoting.promote(artifact, recipe, _settings(c)).id} is the golden root")


@task(help={"recipe": "the recipe's name"})
def demote(c, recipe):  # type: ignore[no-untyped-def]
    """Take the golden root back: the former one is golden again.

    ./inv demote debian
    """
    back, golden = promoting.demote(recipe, _settings(c))
    say(f"{golden.id} is the golden root again; {back.id} is not promoted by a night any more")


@task(positional=["artifact"], help={**_BUILD, "remove": "let it go again"})
def pin(c, artifact, recipe="", remove=False):  # type: ignore[no-untyped-def]
    """Keep a build whatever its age.

    ./inv pin debian/golden
    ./inv pin debian/golden --remove
    """
    made = promoting.pin(artifact, recipe, _settings(c), keep=not remove)
    say(f"{made.id} {'may be pruned' if remove else 'is kept whatever its age'}")


@task(
    iterable=["recipe"],
    help={
        "recipe": "only builds of this recipe, and former roots of its guests; may be given several times",
        "keep": "how many builds of each recipe are left",
        "older-than": "delete only what is older, like 14d; golden trees, which can be made again, have no age",
        "yes": "do not ask",
        **_WHERE,
    },
)
def prune(c, recipe, keep="", older_than="", yes=False, connect=""):  # type: ignore[no-untyped-def]
    """Delete builds that nobody needs (no golden root, none pinned or in use), former roots of guests, golden trees.

    ./inv prune --keep 3 --older-than 14d
    """
    settings = _settings(c, keep=keep, connect=connect)
    try:
        age = time_span(older_than) if older_than else None
    except ValueError as error:
        raise VirtrootError(f"--older-than: {error}", "write it like 14d, 36h or 2w") from error
    gone = pruning.prune(
        recipe, settings, keep=settings.keep, older_than=age, former=True, asking=None if yes else _ask
    )
    say(f"pruned {len(gone)} builds, golden trees and former roots")


@task(help={"cache": "delete the roots that are kept after stages", "yes": "do not ask"})
def clean(c, cache=False, yes=False):  # type: ignore[no-untyped-def]
    """Free disk space: --cache deletes what builds keep for later ones.

    ./inv clean --cache
    """
    if not cache:
        raise VirtrootError("nothing to clean named", "give --cache")
    freed = pruning.clean_cache(_settings(c), asking=None if yes else _ask)
    say(f"freed {freed >> 20} MiB")


@task(
    positional=["before", "after"],
    help={
        "before": "a guest; or a build: RECIPE/BUILD, golden, latest, latest~3 (the third before it)",
        "after": "the build that it is compared with; none for a guest",
        "distro": "the recipe that golden and latest are of, by name",
        "recipe": "that recipe, by name or file",
        "files": "compare what is in the tarballs too",
        "json": "print JSON",
    },
)
def diff(c, before, after="", distro="", recipe="", files=False, json=False):  # type: ignore[no-untyped-def]
    """Say what a guest has changed, or what two builds differ in: packages, kernel, sizes; files with --files.

    ./inv diff web
    ./inv diff debian/latest~1 debian/latest --files
    """
    if distro and recipe:
        raise VirtrootError("--distro and --recipe both given", "give one of them")
    if not after:
        if distro or recipe or files:
            raise VirtrootError(f"{before} and what?", "--distro, --recipe and --files are about two builds: name both")
        changes = differing.of_guest(before, _settings(c))
        if json:
            _print(differing.changes_as_data(changes))
            return
        result_lines(differing.changes_as_lines(changes))
        return
    pair = differing.find(before, after, distro or recipe, _settings(c))
    if json:
        _print(differing.as_data(pair, files=files))
        return
    result_lines(differing.as_lines(pair, files=files))


@task(
    positional=["name"],
    help={
        "name": "look at this guest alone",
        "fix": "do what is safe about what is found, saying each thing, and look again",
        "json": "print JSON",
        **_WHERE,
    },
)
def doctor(c, name="", fix=False, json=False, connect=""):  # type: ignore[no-untyped-def]
    """Say what this machine, libvirt and the guests have of what is needed, and what to do about the rest.

    ./inv doctor
    ./inv doctor web --fix
    """
    settings = _settings(c, connect=connect)
    findings = examining.examine(settings, name)
    if fix:
        examining.mend(findings)
        findings = examining.examine(settings, name)
    _print(examining.as_data(findings) if json else examining.as_text(findings))
    sys.exit(examining.status(findings))


@task(
    help={
        "stop": "stop the engine that an earlier setup started",
        "refresh": "make the images of builders and embedded hypervisor anew, with today's packages",
    }
)
def setup(c, stop=False, refresh=False):  # type: ignore[no-untyped-def]
    """Install and start what is missing, saying so first.

    ./inv setup
    ./inv setup --refresh
    """
    if stop:
        preparing.stop()
    else:
        preparing.setup(_settings(c), refresh=refresh)


@task(help={"distro": "recipe by name", **_ACCEPT, **_WHERE})
def demo(c, distro="debian", accept=False, connect=""):  # type: ignore[no-untyped-def]
    """From an empty machine to a booted, verified guest.

    ./inv demo
    """
    settings = _settings(c, connect=connect)
    demonstrate.demo(inputs.find(distro, snapshots=settings.snapshots), settings, _consent(accept))


@task(
    help={
        "only": "a part of the tests: lint, types or paths for pytest, comma-separated",
        "all": "those that take longest without KVM, too",
        "changed": "integration and end-to-end tests only where what changed can reach them",
        "base": "what changed is what differs from this commit; by default where the branch left origin's main one",
    }
)
def test(c, only="", all=False, changed=False, base=""):  # type: ignore[no-untyped-def] # noqa: A002 - the option
    """Set up everything and run lint, types and the tests.

    ./inv test
    ./inv test --only lint,types,tests/unit
    ./inv test --changed
    """
    if changed and (only or all):
        raise VirtrootError("--changed and --only or --all", "leave one out: --changed chooses by what changed")
    if base and not changed:
        raise VirtrootError("--base without --changed", "write ./inv test --changed --base COMMIT")
    if all and only:
        raise VirtrootError("--all and --only", "leave one out: tests that are named run, however long they take")
    sys.exit(checks.test(_settings(c), only, long=all, changed=changed, base=base))


@task
def schema(c):  # type: ignore[no-untyped-def]
    """Print the JSON schema of recipes.

    ./inv schema > recipes/schema.json
    """
    _print(inputs.schema())


@task(name="help", positional=["topic"], help={"topic": "a page, a part of one that has a name, or an error's text"})
def help_task(c, topic=""):  # type: ignore[no-untyped-def]
    """Show a page of the book in the terminal; without a topic, list the pages.

    ./inv help docker
    ./inv help "Too many levels of symbolic links"
    """
    if topic:
        explaining.show(topic)
    else:
        result(explaining.topics())


@task(name="reference")
def reference_task(c):  # type: ignore[no-untyped-def]
    """Print the book's reference of tasks, recipes, settings and the manifest.

    ./inv reference > docs/reference.md
    """
    docstrings = {name: str(namespace[name].__doc__) for name in program.contexts}
    result(reference.text(program.contexts, docstrings))


@task
def book(c):  # type: ignore[no-untyped-def]
    """Make a site of the book, with a search of its own; prints its first page.

    ./inv book
    """
    result(str(publishing.build(_settings(c))))


def _print(what: object) -> None:
    text = what if isinstance(what, str) else json.dumps(what, indent=2, default=asdict)
    if text:
        result(text)


def _ask(question: str) -> bool:
    if not sys.stdin.isatty():
        return False
    try:
        return input(f"{question} [y/N] ").strip().lower() in {"y", "yes"}
    except EOFError:
        return False


def _after_dashes() -> list[str]:
    """Return what was typed after two dashes: it is for a program in the guest."""
    return sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []


def _consent(accept: bool) -> asks.Consent:
    return asks.granted if accept else _ask


namespace = Collection(
    build,
    plan,
    import_task,
    install,
    clone,
    verify,
    start,
    stop,
    restart,
    share,
    unshare,
    upgrade,
    rollback,
    snapshot,
    restore,
    snapshots,
    refresh,
    wait,
    console,
    exec,
    run,
    ssh,
    ssh_config,
    ssh_proxy,
    cp,
    list_guests,
    info,
    logs,
    remove,
    nightly,
    nightly_timer,
    status,
    promote,
    demote,
    pin,
    prune,
    clean,
    diff,
    doctor,
    setup,
    demo,
    test,
    schema,
    help_task,
    reference_task,
    book,
)
namespace.configure({"virtroot": defaults()})

#: What matters, in the order of use.
_DAILY = (
    ("demo", "from nothing to a booted, verified guest"),
    ("build --distro debian", "make a golden root of recipes/debian.yaml"),
    ("install web --distro debian", "a guest of it, shut off"),
    ("start web", "boot it, wait until it is up"),
    ("ssh web", "log in; also: exec web -- COMMAND"),
    ("list", "guests with state, address, age and size"),
    ("logs web", "what its console said; also: doctor web"),
    ("verify web --boot", "check it, root and running guest"),
    ("upgrade web --restart", "onto the newest root; back: rollback web"),
    ("nightly", "build, boot, verify, promote all recipes"),
)

program = Program(namespace, NAMES, _DAILY)
