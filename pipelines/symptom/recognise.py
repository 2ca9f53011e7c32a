"""Searches texts, such as logs and consoles, for known symptoms."""

from __future__ import annotations

from collections.abc import Iterable

from pipelines.symptom.known import SYMPTOMS
from pipelines.symptom.symptom import Symptom
from pipelines.text import plain

#: The texts that libvirt writes to QEMU's log, and virtiofsd to its own log, at each start.
_STARTS = ("starting up libvirt version", "Waiting for vhost-user socket connection")


def find_symptom(texts: Iterable[str], among: Iterable[Symptom] = SYMPTOMS) -> Symptom | None:
    """Return the first symptom in any of the texts, or None. The order of ``among`` has causes before consequences."""
    return next(iter(find_symptoms(texts, among)), None)


def find_symptoms(texts: Iterable[str], among: Iterable[Symptom] = SYMPTOMS) -> list[Symptom]:
    """Return all symptoms in the texts, in the order of ``among``.

    Escape sequences are removed first, because a guest may write them between the letters.
    """
    written = [plain(text) for text in texts]
    return [symptom for symptom in among if any(symptom.pattern.search(text) for text in written)]


def find_last_start(text: str) -> int:
    """Return the position of the last start in a log that grows over starts, QEMU's or virtiofsd's; -1 for none."""
    return max(text.rfind(mark) for mark in _STARTS)


def get_last_start(text: str) -> str:
    """Return the part of such a log since the last start."""
    return text[max(find_last_start(text), 0) :]
