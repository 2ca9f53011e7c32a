"""Whether each directory of a running guest still has a virtiofsd: libvirt starts it, but does not monitor it."""

from __future__ import annotations

import json

from pipelines.libvirt.hypervisor import Hypervisor

# libvirt passes the socket to every virtiofsd by --fd, and the directory as an argument of its own or, in older
# versions, as one of several options, in which commas are doubled.
_PROGRAM = """
import json, os, sys
commands = []
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as line:
            commands.append(line.read().split(b"\\0"))
    except OSError:
        pass  # the process has ended
given = [words for words in commands if any(word.startswith(b"--fd=") for word in words)]
def served(directory):
    plain = os.fsencode(directory)
    option = b"source=" + plain.replace(b",", b",,")
    return any(word in (plain, option) or word.startswith(option + b",") for words in given for word in words)
print(json.dumps([directory for directory in json.load(sys.stdin) if not served(directory)]))
"""


def find_unserved(hypervisor: Hypervisor, domain: str) -> str:
    """Return which directory of the running domain with the UUID ``domain`` no virtiofsd serves any more, or ""."""
    definition = hypervisor.xml(domain, active=True)
    if definition is None:
        return ""
    sources = (
        filesystem.find("source")
        for filesystem in definition.iterfind("devices/filesystem")
        if filesystem.find("driver[@type='virtiofs']") is not None
    )
    # A virtiofsd that the user starts is given by its socket, without a directory.
    directories = [source.get("dir", "") for source in sources if source is not None and source.get("dir")]
    if not directories:
        return ""
    target = hypervisor.target
    done = target.run([target.python, "-I", "-c", _PROGRAM], stdin=json.dumps(directories).encode())
    gone = json.loads(done.text)
    # A guest that is just shutting down has no virtiofsd either.
    return f"no virtiofsd serves {gone[0]} any more" if gone and hypervisor.state(domain) == "running" else ""
