"""What a domain's definition says of its root, and how another root changes it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipelines.artifact.build_id import BuildId
from pipelines.errors import VirtrootError
from pipelines.guest import root_source
from tests.support.definitions import parsed
from tests.support.domains import DOMAINS, domain
from tests.support.guests import make_source


@pytest.mark.parametrize("name", DOMAINS)
def test_a_definition_says_what_was_written_to_it(name: str) -> None:
    definition = parsed(domain(name))
    found = root_source.read(definition)
    assert found.artifact == "debian/20260101T000000Z-0123456789ab"
    assert isinstance(found.artifact, BuildId)
    other = replace(make_source("web/2", "vmlinuz-2", ""), golden="/pool/golden.web", lower="1" * 64)
    root_source.write(definition, "/boot", other)
    assert root_source.read(definition) == other
    assert definition.find("os/initrd") is None
    assert definition.findtext("description") == root_source.describe(other)
    root_source.write(definition, "/boot", found)
    assert root_source.read(definition) == found


@pytest.mark.parametrize("description", ["mine: made from web/1", "", None])
def test_a_description_of_the_user_stays(description: str | None) -> None:
    definition = parsed(domain("mixed"))
    element = definition.find("description")
    assert element is not None
    element.text = description
    root_source.write(definition, "/boot", make_source("web/2"))
    assert definition.findtext("description") == (description or "")
    definition.remove(element)
    root_source.write(definition, "/boot", make_source("web/3"))
    assert definition.find("description") is None


def test_the_json_of_a_source_is_read_back() -> None:
    source = replace(make_source("web/2"), golden="/pool/golden.web")
    found = root_source.from_data({**source.__dict__})
    assert found == source
    for damaged in ({}, {"artifact": "web/2"}, {**source.__dict__, "more": 1}):
        with pytest.raises((KeyError, TypeError)):
            root_source.from_data(damaged)


def test_a_domain_without_metadata_is_refused() -> None:
    with pytest.raises(VirtrootError, match="no virtroot metadata"):
        root_source.write(parsed("<domain><os/></domain>"), "/boot", make_source())
