"""The door to libvirt: virsh, the embedded hypervisor, the pool, and what runs beside libvirt."""
