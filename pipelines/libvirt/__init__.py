"""The interface to libvirt: virsh, the embedded hypervisor, and the programs that run on libvirt's host."""
