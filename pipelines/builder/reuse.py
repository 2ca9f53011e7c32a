"""Nothing changed: the artifact that a build would make again is there already."""

from __future__ import annotations

from pipelines import __version__
from pipelines.artifact.artifact import Artifact
from pipelines.artifact.manifest import Boot, record
from pipelines.artifact.store import Store
from pipelines.builder.inputs import Inputs
from pipelines.builder.mirror_state import Asker, surroundings
from pipelines.errors import VirtrootError
from pipelines.log import warn
from pipelines.recipe.plan import compute_plan_id
from pipelines.settings import Settings


def unchanged(inputs: Inputs, settings: Settings, asker: Asker) -> Artifact | None:
    """Return the newest artifact that a build of ``inputs`` would make again, None where it would make another one.

    The mirror is asked unless ``asker`` knows its answer; no builder is started, and nothing changes.
    """
    identity = compute_plan_id(inputs.plan, surroundings(inputs, asker))
    return find(inputs, identity, Store(settings.output_dir))


def find(inputs: Inputs, identity: str, store: Store) -> Artifact | None:
    """Return the newest artifact in ``store`` that is what the plan ``identity`` of ``inputs`` gives, if there is one.

    One that was made while the mirror changed is not, nor one whose tarball is not what it was.
    """
    for artifact in reversed(store.builds(inputs.name)):
        try:
            if _same(artifact, inputs, identity):
                artifact.refuse_damaged()
                return artifact
        except VirtrootError as error:
            warn(f"{error.what}; it is not taken for this build")
    return None


def _same(artifact: Artifact, inputs: Inputs, identity: str) -> bool:
    made, plan = artifact.manifest, inputs.plan
    # What guests are made of counts, too: the plan's id knows the root alone.
    boot = Boot(kernel=plan.generator.kernel, initrd=plan.generator.initrd, cmdline=plan.cmdline)
    return (
        made.plan == identity
        and not made.mirror_changed
        and made.virtroot == __version__
        and made.recipe == record(inputs.recipe)
        and made.boot == boot
    )
