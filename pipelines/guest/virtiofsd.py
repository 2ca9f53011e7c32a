"""Whether the directories of a running guest are still served: libvirt starts virtiofsd, and does not miss it."""

from __future__ import annotations

import json

from pipelines.libvirt.hypervisor import Hypervisor

# libvirt gives every virtiofsd its socket by --fd, and the directory as an argument of its own or, to older ones, as
# one of several options, where commas are doubled.
_PROGRAM = """
import json, os, sys
commands = []
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as line:
            commands.append(line.read().split(b"\\0"))
    except OSError:
        pass  # it has ended
given = [words for words in commands if any(word.startswith(b"--fd=") for word in words)]
def served(directory):
    plain = os.fsencode(directory)
    option = b"source=" + plain.replace(b",", b",,")
    return any(word in (plain, option) or word.startswith(option + b",") for words in given for word in words)
print(json.dumps([directory for directory in json.load(sys.stdin) if not served(directory)]))
"""


def unserved(hypervisor: Hypervisor, domain: str) -> str:
    """Say of a running domain, given by its UUID, which directory no virtiofsd serves any more; empty for none."""
    definition = hypervisor.xml(domain, active=True)
    if definition is None:
        return ""
    sources = (
        filesystem.find("source")
        for filesystem in definition.iterfind("devices/filesystem")
        if filesystem.find("driver[@type='virtiofs']") is not None
    )
    # One that somebody else starts is named by its socket.
    directories = [source.get("dir", "") for source in sources if source is not None and source.get("dir")]
    if not directories:
        return ""
    target = hypervisor.target
    done = target.run([target.python, "-I", "-c", _PROGRAM], stdin=json.dumps(directories).encode())
    gone = json.loads(done.text)
    # A guest that just ends is served no more, too.
    return f"no virtiofsd serves {gone[0]} any more" if gone and hypervisor.state(domain) == "running" else ""
