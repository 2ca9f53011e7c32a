"""Whether KVM works: on some machines /dev/kvm exists, but no guest runs."""

from __future__ import annotations

from pipelines.errors import VirtrootError
from pipelines.target.target import Target

# A firmware of 256 bytes after zeros. A PC starts 16 bytes below its end (ljmp 0xf000:0xff00). From there the code
# enters 32-bit protected mode and, if the processor has BMI2 (cpuid, leaf 7), runs `shlx %ecx, %ecx, %edx`. Kernels
# use this instruction to decompress themselves, and a KVM that emulates its processor stops at it. Then the code makes
# QEMU exit (isa-debug-exit: 16 gives the status 33).
_CODE = {
    0x00: "fa 2e66 0f01 1680ff 0f20c0 0c01 0f22c0 66ea20ff0f000800",
    0x20: "31c0 0fa2 83f807 721b b807000000 31c9 0fa2 f7c300010000 740a b901000000 c4e271f7d1 b010 e6f4 f4",
    0x80: "1700 88ff0f00",
    0x88: "0000000000000000 ffff0000009acf00 ffff00000092cf00",
    0xF0: "ea00ff00f0",
}
_SIZE, _EXIT_STATUS = 64 << 10, 33

#: Seconds that the firmware may take; with a working KVM it takes a fraction of one.
_TIMEOUT = "5"

_PROBE = """
firmware=$(mktemp) || exit
trap 'rm -f "$firmware"' EXIT
cat > "$firmware"
limit=$1; shift
timeout "$limit" "$@" -bios "$firmware"
"""


def make_firmware() -> bytes:
    """Return the firmware that the probe runs."""
    code = bytearray(256)
    for offset, text in _CODE.items():
        piece = bytes.fromhex(text)
        code[offset : offset + len(piece)] = piece
    return bytes(_SIZE - len(code)) + bytes(code)


def is_working(target: Target, accelerator: str = "kvm") -> bool:
    """Run a few instructions on ``target`` as a KVM guest, and return whether they were completed."""
    qemu = (
        "qemu-system-x86_64", "-machine", f"q35,accel={accelerator}", "-cpu", "host" if accelerator == "kvm" else "max",
        "-m", "64", "-display", "none", "-nodefaults", "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=4",
    )  # fmt: skip
    try:
        done = target.run(["sh", "-c", _PROBE, "probe", _TIMEOUT, *qemu], stdin=make_firmware(), check=False)
    except VirtrootError:
        return False
    return done.returncode == _EXIT_STATUS
