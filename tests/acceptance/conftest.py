"""What `invoke verify` hands to the suite: the manifest, the tree or guest to check, and how to reach it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from testinfra.host import Host

from pipelines.artifact.artifact import Artifact
from pipelines.artifact.manifest import Manifest
from pipelines.engine import engine as engines
from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest.guest import Guest
from pipelines.libvirt.connect import connect
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.settings import Settings
from pipelines.target.target import InContainer
from pipelines.verify import CONTEXT_VARIABLE, DRIFT, SuiteContext
from tests.acceptance import facts as gathering
from tests.acceptance.backends import AgentBackend, ChrootBackend
from tests.acceptance.facts import Facts

Drift = Callable[[str], None]


@pytest.fixture(scope="session")
def context() -> SuiteContext:
    return SuiteContext(**json.loads(Path(os.environ[CONTEXT_VARIABLE]).read_text()))


@pytest.fixture(scope="session")
def manifest(context: SuiteContext) -> Manifest:
    return Artifact(Path(context.artifact)).manifest


@pytest.fixture(scope="session")
def hypervisor(context: SuiteContext) -> Hypervisor:
    return connect(Settings(**context.settings))


@pytest.fixture(scope="session")
def guest(context: SuiteContext, hypervisor: Hypervisor) -> Guest:
    return guests.get(hypervisor, context.guest)


@pytest.fixture(scope="session")
def tree(context: SuiteContext) -> Host:
    """The root as a tree: in the builder for an artifact, on libvirt's machine for a guest."""
    if context.container:
        container = engines.connect().container(context.container)
        assert container is not None, f"the builder {context.container} is gone"
        return Host(ChrootBackend(InContainer(container), context.root, confined=False))
    target = connect(Settings(**context.settings)).target
    return Host(ChrootBackend(target, context.root, confined=True))


@pytest.fixture(scope="session")
def drift(record_testsuite_property: Callable[[str, object], None]) -> Drift:
    """Tell what a guest has otherwise than its artifact, and may have."""
    return lambda what: record_testsuite_property(DRIFT, what)


@pytest.fixture(scope="session")
def facts(guest: Guest, manifest: Manifest, request: pytest.FixtureRequest) -> Facts:
    """What the checks of a guest look at. Where it cannot be gathered, that is the only check which fails."""
    try:
        return gathering.gather(guest.agent, guest, manifest)
    except (VirtrootError, ValueError) as error:
        request.session.shouldfail = "nothing else can be checked"
        pytest.fail(f"nothing is known of {guest.name}: {error}", pytrace=False)


@pytest.fixture(scope="session")
def running(guest: Guest) -> Host:
    """The guest as it runs, for checks that ask it something else: each question takes some calls of its agent."""
    return Host(AgentBackend(guest.agent))
