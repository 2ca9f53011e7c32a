"""The options of an install, and their validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from pipelines.errors import VirtrootError
from pipelines.guest import identity
from pipelines.guest.host_requests import Consent
from pipelines.pool import clone_methods
from pipelines.recipe import share_spec as shares
from pipelines.recipe.recipe import GuestDefaults
from pipelines.recipe.share_spec import ShareSpec


@dataclass(frozen=True)
class InstallOptions:
    """The options of one guest; ``memory``, ``vcpus`` and ``cache`` are empty to use the recipe's.

    ``overlayfs`` and ``shares`` are added to those of the recipe. A ``transient`` guest has none of the recipe's
    shares: a temporary guest must not change the data of permanent ones. ``transient`` names its owner, which may
    remove it; it is empty for a permanent guest.
    ``clone`` is the clone method for the root.
    ``consent`` asks the user whether to grant what the recipe requests from the host; None grants nothing.
    """

    memory: int | None = None
    vcpus: int | None = None
    hostname: str = ""
    authorized_keys: str = ""
    cache: str = ""
    overlayfs: bool = False
    shares: tuple[ShareSpec, ...] = ()
    transient: str = ""
    clone: str = "auto"
    consent: Consent | None = None


def parse_options(
    memory: str,
    vcpus: int,
    hostname: str,
    ssh_key: str,
    *,
    cache: str = "",
    overlayfs: bool = False,
    share: Sequence[str] = (),
    clone: str = "auto",
    consent: Consent | None = None,
) -> InstallOptions:
    """Check the options of the command line by the rules of a recipe; raises `VirtrootError`."""
    asking = {"memory": memory, "vcpus": vcpus, "cache": cache}
    given: Mapping[str, object] = {key: value for key, value in asking.items() if value}
    try:
        asked = GuestDefaults.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        field, message = str(first["loc"][0]), str(first["msg"]).removeprefix("Value error, ")
        hint = "write sizes like 2GiB, the number of CPUs as a whole number, the cache as auto, mixed, always or none"
        raise VirtrootError(f"--{field}: {message}", hint) from error
    try:
        given_shares = tuple(map(shares.parse, share))
        shares.refuse_duplicates(given_shares)
    except ValueError as error:
        raise VirtrootError(f"--share: {error}", "use for example --share data:/srv/data:/srv/data:ro") from error
    keys = identity.read_ssh_key(ssh_key) if ssh_key else ""
    return InstallOptions(
        asked.memory if memory else None,
        asked.vcpus if vcpus else None,
        hostname,
        keys,
        cache=cache,
        overlayfs=overlayfs,
        shares=given_shares,
        clone=clone_methods.check_method(clone),
        consent=consent,
    )
