"""Finds the existing artifact that a build would make again, so that the build can be skipped."""

from __future__ import annotations

from pipelines import __version__
from pipelines.artifact.artifact import Artifact
from pipelines.artifact.manifest import Boot, record
from pipelines.artifact.store import Store
from pipelines.builder.inputs import Inputs
from pipelines.builder.mirror_state import Asker, get_surroundings
from pipelines.errors import VirtrootError
from pipelines.log import warn
from pipelines.recipe.plan import compute_plan_id
from pipelines.settings import Settings


def find_unchanged(inputs: Inputs, settings: Settings, asker: Asker) -> Artifact | None:
    """Return the newest artifact that a build of ``inputs`` would make again, or None.

    The mirror is queried unless ``asker`` has its answer. No builder is started, and nothing is changed.
    """
    identity = compute_plan_id(inputs.plan, get_surroundings(inputs, asker))
    return find(inputs, identity, Store(settings.output_dir))


def find(inputs: Inputs, identity: str, store: Store) -> Artifact | None:
    """Return the newest artifact in ``store`` with the plan's id ``identity``, or None.

    Artifacts that were built while the mirror changed, and damaged ones, are skipped.
    """
    for artifact in reversed(store.builds(inputs.name)):
        try:
            if _is_same(artifact, inputs, identity):
                artifact.refuse_damaged()
                return artifact
        except VirtrootError as error:
            warn(f"{error.what}; not used instead of a build")
    return None


def _is_same(artifact: Artifact, inputs: Inputs, identity: str) -> bool:
    made, plan = artifact.manifest, inputs.plan
    # Compare what guests are made from, too: the plan's id covers the root only.
    boot = Boot(kernel=plan.generator.kernel, initrd=plan.generator.initrd, cmdline=plan.cmdline)
    return (
        made.plan == identity
        and not made.mirror_changed
        and made.virtroot == __version__
        and made.recipe == record(inputs.recipe)
        and made.boot == boot
    )
