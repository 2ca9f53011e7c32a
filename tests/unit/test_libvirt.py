"""What is asked of libvirt, and what becomes of its answers; a stand-in here answers as virsh prints."""

from __future__ import annotations

from typing import Any, cast
from unittest.mock import create_autospec

import pytest

from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest.agent import Agent
from pipelines.host.process import Completed
from pipelines.libvirt.hypervisor import Hypervisor, ListedDomain
from pipelines.target import mounts
from pipelines.target.payload.metadata import NAMESPACE
from pipelines.target.target import Target
from tests.support.virsh import FakeTarget, hypervisor

WEB, COPY = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
ROOT = "/var/lib/libvirt/filesystems/root.web"


def definition(name: str, root: str = ROOT, boot: str = "/var/lib/libvirt/boot/virtroot.web") -> str:
    metadata = f"<v:guest xmlns:v='{NAMESPACE}'><v:artifact>a/1</v:artifact><v:root>{root}</v:root></v:guest>"
    return f"<domain><name>{name}</name><metadata>{metadata}</metadata><os><kernel>{boot}/kernel</kernel></os></domain>"


BOTH = {
    "list --all": f"{WEB} web\n{COPY} web2\n\n",
    f"dumpxml {WEB}": definition("web"),
    f"dumpxml {COPY}": definition("web2"),
}


def test_virsh_speaks_the_language_that_its_words_are_compared_in() -> None:
    asked = hypervisor({"domstate": "shut off\n"})
    assert asked.state(WEB) == "shut off"
    assert cast(FakeTarget, asked.target).ran[0][:3] == ["env", "LC_ALL=C", "virsh"]


def test_a_console_that_cannot_be_joined_says_what_to_do() -> None:
    target = create_autospec(Target, instance=True)
    machine = Hypervisor(target)
    target.attach.return_value = 0
    assert machine.console(WEB) == 0
    target.attach.return_value = 1
    with pytest.raises(VirtrootError, match="virsh console failed with status 1"):
        machine.console(WEB)


def test_a_guest_is_addressed_by_its_uuid_whatever_its_name_looks_like() -> None:
    third = hypervisor(
        {"list --all": f"{WEB} 3\n", "dumpxml": definition("3"), "domstate": "running\n", "shutdown": "", "tail": ""}
    )
    guest = guests.get(third, "3")
    assert guest.running
    with pytest.raises(VirtrootError, match="did not shut down"):
        guest.stop(timeout=0)
    asked = [argv for argv in cast(FakeTarget, third.target).ran if "virsh" in argv and "list" not in argv]
    assert len(asked) >= 3
    assert all(WEB in argv and "3" not in argv for argv in asked), asked


def test_a_copy_of_a_domain_names_the_same_root() -> None:
    web = guests.get(hypervisor(BOTH), "web")
    with pytest.raises(VirtrootError, match="is the root of web2 too"):
        web.refuse_shared_root()
    edited = hypervisor({**BOTH, f"dumpxml {COPY}": definition("web2", root=f"{ROOT}2")})
    with pytest.raises(VirtrootError, match="is the boot directory of web2 too"):
        guests.get(edited, "web").refuse_shared_root()
    boot = "/var/lib/libvirt/boot/virtroot.web2"
    alone = hypervisor({**BOTH, f"dumpxml {COPY}": definition("web2", root=f"{ROOT}2", boot=boot)})
    guests.get(alone, "web").refuse_shared_root()


def test_a_domain_that_vanishes_does_not_break_the_list() -> None:
    lists = [f"{WEB} web\n{COPY} web2\n", f"{WEB} web\n"]
    vanishing = hypervisor({**BOTH, "list --all": lists, f"dumpxml {COPY}": RuntimeError("gone")})
    assert [guest.name for guest in guests.list_guests(vanishing)] == ["web"]


def test_a_renamed_guest_keeps_the_boot_directory_of_its_first_name() -> None:
    renamed = hypervisor({"list --all": f"{WEB} www\n", "dumpxml": definition("www")})
    assert guests.get(renamed, "www").boot == "/var/lib/libvirt/boot/virtroot.web"


@pytest.mark.parametrize("boot", ["/boot", "/etc", "/var/lib/libvirt/boot", "/var/lib/libvirt/boot/other"])
def test_a_kernel_of_the_users_own_does_not_make_its_directory_ours(boot: str) -> None:
    edited = hypervisor({"list --all": f"{WEB} web\n", "dumpxml": definition("web", boot=boot)})
    assert guests.get(edited, "web").boot == "/var/lib/libvirt/boot/virtroot.web"


def test_what_libvirt_keeps_of_a_domain_is_named() -> None:
    keeps = hypervisor(
        {"dominfo": "Name:           web\nManaged save:   yes\n", "snapshot-list": "before\n", "checkpoint-list": ""}
    )
    assert keeps.list_saved_state(WEB) == [
        "a managed save (virsh managedsave-remove)",
        "the snapshot before (virsh snapshot-delete)",
    ]
    nothing = hypervisor({"dominfo": "Managed save:   no\n", "snapshot-list": "", "checkpoint-list": RuntimeError()})
    assert nothing.list_saved_state(WEB) == []


def test_an_address_is_one_that_others_can_reach() -> None:
    listed = " vnet0      52:54:00:00:00:01    ipv4         192.168.122.7/24\n"
    assert hypervisor({"lease": listed}).find_address(WEB, "lease") == "192.168.122.7"
    assert hypervisor({"lease": ""}).find_address(WEB, "lease") == ""
    network, user = " vnet0  network  default  virtio  52:54\n", " -  user  -  virtio  52:54\n"
    assert hypervisor({"domiflist": network}).has_network(WEB)
    assert not hypervisor({"domiflist": user}).has_network(WEB)
    assert not hypervisor({"domiflist": ""}).has_network(WEB)
    told = '[{"name":"lo","ip-addresses":[{"ip-address":"127.0.0.1"}]},{"ip-addresses":[{"ip-address":"10.1.2.3"}]},{}]'
    assert Agent(hypervisor({"interfaces": f'{{"return":{told}}}'}), WEB, "web").list_addresses() == ["10.1.2.3"]
    with pytest.raises(VirtrootError, match="invalid answer"):
        Agent(hypervisor({"interfaces": '{"return":[7]}'}), WEB, "web").list_addresses()


@pytest.mark.parametrize(
    ("mounted", "found"),
    [
        (f"{ROOT}/srv", [f"{ROOT}/srv"]),
        (ROOT, [ROOT]),
        (f"{ROOT}/with\\040space", [f"{ROOT}/with space"]),
        (f"{ROOT}2/srv", []),
        ("/", []),
    ],
)
def test_mounts_below_a_root_are_seen(mounted: str, found: list[str]) -> None:
    target = cast(Target, FakeTarget({"mountinfo": f"36 35 8:1 / {mounted} rw,noatime shared:1 - ext4 /dev/vda rw\n"}))
    assert mounts.below(target, ROOT) == found


EXITED = '{"return":{"exited":true,"exitcode":3,"out-data":"b3V0"}}'


def agent(statuses: list[Any], state: str = "running\n") -> Agent:
    answers: dict[str, str | Exception | list[Any]] = {
        '"guest-exec",': '{"return":{"pid":7}}',
        '"guest-exec-status"': statuses,
        "domstate": state,
    }
    return Agent(hypervisor(answers), WEB, "web")


def test_one_late_answer_does_not_end_a_command() -> None:
    done = agent([RuntimeError("timeout"), '{"return":{"exited":false}}', RuntimeError("timeout"), EXITED]).run(["id"])
    assert (done.returncode, done.stdout) == (3, b"out")


def test_an_agent_that_was_started_anew_is_not_asked_for_90_seconds() -> None:
    with pytest.raises(VirtrootError, match="does not exist"):
        agent([RuntimeError("error: guest agent command failed: PID ld does not exist")]).run(["id"])


def test_an_agent_of_a_guest_that_is_off_is_not_waited_for() -> None:
    with pytest.raises(VirtrootError, match="does not answer"):
        agent([RuntimeError("gone")], state="shut off\n").run(["id"])


@pytest.mark.parametrize(
    "answer",
    [
        "", "null", "[]", '{"return":7}', '{"return":{}}', '{"return":{"exited":"soon"}}',
        '{"return":{"exited":true,"out-data":7}}',
    ],
)  # fmt: skip
def test_an_agent_that_answers_nonsense_is_an_error_and_no_traceback(answer: str) -> None:
    with pytest.raises(VirtrootError, match="invalid answer to guest-exec-status"):
        next(agent([answer], state="shut off\n").poll(7))


def test_output_that_the_agent_cut_is_not_taken_for_the_whole() -> None:
    cut = '{"return":{"exited":true,"exitcode":0,"out-data":"b3V0","out-truncated":true}}'
    with pytest.raises(VirtrootError, match="printed more"):
        agent([cut]).run(["id"])


class Batches(FakeTarget):
    """A target whose virsh runs several commands in a line, as virsh does; ``gone`` are domains that vanished."""

    def __init__(self, gone: str = "") -> None:
        super().__init__({})
        self.gone = gone

    def run(self, argv: Any, **_: Any) -> Completed:
        self.ran.append([*argv])
        words = argv[list(argv).index("--connect") + 2 :]
        if words[:2] == ["list", "--uuid"]:
            left = "".join(f"{uuid} name\n" for uuid in (WEB, COPY) if uuid != self.gone)
            return Completed(tuple(argv), 0, left.encode(), b"")
        said = ""
        for command in " ".join(words).split("; "):
            verb, *rest = command.split(" ")
            if verb == "echo":
                said += rest[0]
            elif rest[-1] != self.gone:
                said += "running\n\n" if verb == "domstate" else f"{definition(rest[-1])}\n"
        return Completed(tuple(argv), int(not said), said.encode(), b"")


def test_one_virsh_asks_about_all_domains() -> None:
    target = Batches()
    asked = Hypervisor(cast(Target, target))
    both = [ListedDomain(WEB, "web"), ListedDomain(COPY, "web2")]
    assert [found.findtext("name") for found in asked.definitions(both).values()] == [WEB, COPY]
    assert len(target.ran) == 1
    assert asked.list_states() == {WEB: "running", COPY: "running"}
    assert len(target.ran) == 3
    assert asked.definitions([]) == {}


def test_a_domain_that_vanished_is_left_out() -> None:
    asked = Hypervisor(cast(Target, Batches(gone=COPY)))
    both = [ListedDomain(WEB, "web"), ListedDomain(COPY, "web2")]
    assert [*asked.definitions(both)] == [WEB]
    assert asked.list_states() == {WEB: "running"}


def test_a_domain_that_cannot_be_read_is_an_error() -> None:
    target = Batches(gone=COPY)
    asked = Hypervisor(cast(Target, target))
    target.gone = COPY
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Hypervisor, "domains", lambda *_, **__: [ListedDomain(COPY, "web2")])
        with pytest.raises(VirtrootError, match=f"cannot read the definition of domain {COPY}"):
            asked.definitions([ListedDomain(COPY, "web2")])


def test_many_domains_need_several_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.libvirt.hypervisor._BATCH", 2)
    target = Batches()
    five = [ListedDomain(f"0000000{number}-0000-0000-0000-000000000000", str(number)) for number in range(5)]
    assert [*Hypervisor(cast(Target, target)).definitions(five)] == [known.uuid for known in five]
    assert len(target.ran) == 3
