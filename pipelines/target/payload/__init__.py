"""The programs that are sent to libvirt's host: standard library only."""
