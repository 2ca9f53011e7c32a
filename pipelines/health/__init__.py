"""Checks of this machine, libvirt's host, the pool and the guests."""
