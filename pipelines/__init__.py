"""virtroot: Linux root file systems that boot as libvirt guests over virtiofs."""

#: The version; pyproject.toml and ./inv --version read it here.
__version__ = "0.2.0"
