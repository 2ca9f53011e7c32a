"""Holds what was written against the known symptoms."""

from __future__ import annotations

from collections.abc import Iterable

from pipelines.symptom.known import SYMPTOMS
from pipelines.symptom.symptom import Symptom
from pipelines.text import plain

#: What libvirt writes into QEMU's log, and virtiofsd into its own, at each start; above it is what is of earlier ones.
_STARTS = ("starting up libvirt version", "Waiting for vhost-user socket connection")


def recognise(texts: Iterable[str], among: Iterable[Symptom] = SYMPTOMS) -> Symptom | None:
    """Return the first symptom that any of the texts has; causes come before what follows from them."""
    return next(iter(symptoms(texts, among)), None)


def symptoms(texts: Iterable[str], among: Iterable[Symptom] = SYMPTOMS) -> list[Symptom]:
    """Return all symptoms that the texts have, in their order.

    A guest writes escapes between the letters, so the texts are made plain.
    """
    written = [plain(text) for text in texts]
    return [symptom for symptom in among if any(symptom.pattern.search(text) for text in written)]


def last_start(text: str) -> int:
    """Return where the last start begins in a log that is never emptied, QEMU's or virtiofsd's; -1 for nowhere."""
    return max(text.rfind(mark) for mark in _STARTS)


def since_start(text: str) -> str:
    """Return what such a log has of the last start alone."""
    return text[max(last_start(text), 0) :]
