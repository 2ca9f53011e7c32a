"""virtroot: golden roots that boot as libvirt guests over virtiofs."""

#: The one place that says it; pyproject.toml and ./inv --version read it here.
__version__ = "0.1.0"
