"""virtroot: golden roots that boot as libvirt guests over virtiofs."""

__version__ = "0.1.0"
