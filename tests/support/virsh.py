"""A hypervisor whose virsh gives answers that are made up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from pipelines.host.process import Completed
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.target.target import Target


class FakeTarget:
    """Answers commands by the words that tell them apart; keeps what was run."""

    def __init__(self, answers: Mapping[str, str | Exception | list[Any]]) -> None:
        self.answers, self.ran = dict(answers), list[list[str]]()

    def run(self, argv: Sequence[str], **_: Any) -> Completed:
        self.ran.append(list(argv))
        line = " ".join(argv)
        for words, answer in self.answers.items():
            if all(word in line for word in words.split()):
                said = answer.pop(0) if isinstance(answer, list) else answer
                failed = isinstance(said, Exception)
                output = b"" if failed else str(said).encode()
                return Completed(tuple(argv), int(failed), output, str(said).encode() if failed else b"")
        raise AssertionError(f"nobody expected {line}")


def hypervisor(answers: Mapping[str, str | Exception | list[Any]]) -> Hypervisor:
    return Hypervisor(cast(Target, FakeTarget(answers)))
