"""Names of files that both virtroot and libvirt's hook use."""

#: The directory with a guest's kernel copy has this prefix. Files in other directories are never replaced.
BOOT_PREFIX = "virtroot."

#: Suffix of the journal of a swap of two roots. It lies next to the root and has the root's name.
SWAP = "@switch"

#: Suffix of the journal of a removal.
REMOVAL = "@removal"

#: The directory with virtroot's locks on libvirt's host.
LOCKS = "/run/virtroot"

#: The file that a task locks while the guest has to stay off; the field is the name of the root's directory.
OFF_LOCK = f"{LOCKS}/off-{{}}.lock"
