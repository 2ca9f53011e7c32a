"""How shares are written on the command line and in recipes."""

from __future__ import annotations

import pytest
import yaml
from pydantic import ValidationError

from pipelines.recipe.recipe import GuestDefaults
from pipelines.recipe.share_spec import ShareSpec, parse


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("data:media:/srv/media", ShareSpec("data", "media", "/srv/media")),
        ("a.b-c_1:/srv/x/:/mnt//y/:ro", ShareSpec("a.b-c_1", "/srv/x", "/mnt/y", readonly=True)),
        ("d:/srv/x:/y:create:ro", ShareSpec("d", "/srv/x", "/y", readonly=True, create=True)),
        (f"{'t' * 36}:/a b:/c d", ShareSpec("t" * 36, "/a b", "/c d")),
        ("d://x//..//y:/z", ShareSpec("d", "/y", "/z")),
    ],
)
def test_a_share_is_parsed(text: str, share: ShareSpec) -> None:
    assert parse(text) == share


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "invalid share"),
        ("data", "invalid share"),
        ("data:/x", "invalid share"),
        ("data:/x:/y:ro:ro", "invalid share"),
        ("data:/x:/y:rw", "invalid share"),
        (":/x:/y", "invalid tag"),
        ("-d:/x:/y", "invalid tag"),
        ("a b:/x:/y", "invalid tag"),
        ("ä" * 19 + ":/x:/y", "longer than 36 bytes"),
        ("root:/x:/y", "the guest's root"),
        ("d::/y", "invalid share source"),
        ("d:x/y:/y", "invalid share source"),
        ("d:..:/y", "invalid share source"),
        ("d:a..b:/y", "invalid share source"),
        ("d:/x\n:/y", "control characters"),
        ("d:/x:y", "invalid mount point"),
        ("d:/x:/a/../b", "invalid mount point"),
        ("d:/x:/a\tb", "invalid mount point"),
        ("d:/x:/", "would hide"),
        ("d:/x:/usr/", "would hide"),
        ("d:/x://proc/1", "would hide"),
        *(
            (f"d:/x:{point}", "would hide")
            for point in (
                "/usr/lib",
                "/usr/bin/x",
                "/var/lib",
                "/var/lib/dpkg/info",
                "/etc/systemd",
                "/etc/systemd/system",
                "/run/systemd",
                "/boot/new",
                "/lib/modules",
                "/var/log",
            )
        ),
    ],
)
def test_an_invalid_share_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse(text)


def test_a_recorded_share_need_not_follow_the_present_rules() -> None:
    assert parse("d:x:/usr/lib/jvm/", recorded=True).point == "/usr/lib/jvm"
    with pytest.raises(ValueError, match="invalid mount point"):
        parse("d:x:usr/lib", recorded=True)


@pytest.mark.parametrize(
    "point", ["/usr/local", "/var/lib/docker", "/var/www", "/etc/nginx", "/library", "/srv", "/home"]
)
def test_a_path_that_hides_nothing_can_be_a_mount_point(point: str) -> None:
    assert parse(f"d:/x:{point}").point == point


def test_a_recipe_has_shares_as_the_command_line_writes_them() -> None:
    read = GuestDefaults.model_validate(yaml.safe_load('{overlayfs: true, shares: ["a:x:/srv/a", "b:x:/srv/b:ro"]}'))
    assert (read.overlayfs, read.shares) == (True, ("a:x:/srv/a", "b:x:/srv/b:ro"))
    for wrong in (
        ["a:/srv/x:/srv/a"],
        ["a:x"],
        ["a:x:/srv/a", "a:y:/srv/b"],
        ["a:x:/srv/a", "b:y:/srv/a"],
        "a:x:/srv/a",
    ):
        with pytest.raises(ValidationError):
            GuestDefaults.model_validate({"shares": wrong})
