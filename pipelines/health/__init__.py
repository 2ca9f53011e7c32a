"""Whether things are as they should be: this machine, libvirt's host, the pool, the guests."""
