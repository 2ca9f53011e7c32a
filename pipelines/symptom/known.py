"""The known symptoms, causes before their consequences. The book has a section for each."""

from __future__ import annotations

import re

from pipelines.symptom.symptom import Symptom

_SHARE_MEMORY = (
    "add <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking> to the domain: virsh edit {name}"
)

#: The root is not broken, but its virtiofsd is not allowed to write the attributes that overlayfs needs.
OVERLAYFS = Symptom(
    name="overlayfs",
    heading="overlayfs: upper fs missing required features",
    pattern=re.compile(
        r"overlayfs: upper fs missing required features"
        r"|overlayfs: failed to set xattr on upper"
        r"|failed to mount overlay: [^\n]{0,400}storage-driver=overlay2"
        r"|driver not supported: overlay2"
    ),
    cause="the guest's root does not support overlayfs' upper directories, which Docker's overlay2 needs",
    remedy="install it with --overlayfs, or set guest: {overlayfs: true} in its recipe; in an existing guest set "
    "<binary path='/etc/libvirt/hooks/virtroot/virtiofsd-acl-overlayfs' xattr='on'>: virsh edit {name}",
    comes_up=True,
)

#: The messages of a kernel whose timers do not fire, which happens occasionally under software emulation.
TIMERS = Symptom(
    name="timers-stopped",
    heading="rcu: rcu_preempt kthread starved",
    pattern=re.compile(r"rcu[^\n]{0,80}(?:stall|starved)|soft lockup|timer doesn't work", re.IGNORECASE),
    cause="the guest's timers stopped, or it got no CPU time for long",
    remedy="start it again: ./inv stop {name} --force, ./inv start {name}; reduce the load of the machine",
)

#: The mode or owner of the root directory, which is the guest's /.
ROOT_MODE = Symptom(
    name="root-mode",
    heading="bad ownership or modes for directory /",
    pattern=re.compile(
        r"bad ownership or modes for directory /(?![A-Za-z0-9_.-])|Detected unsafe path transition / ", re.IGNORECASE
    ),
    cause="the root directory does not belong to root with mode 0755",
    remedy="run ./inv doctor {name} --fix for the mode; for the owner, chown root:root the root in ./inv info {name}",
    comes_up=True,
)

#: virtroot reports this after a search for the process; the other text is in the trace of a task that waits for it.
GONE = Symptom(
    name="virtiofsd-gone",
    heading="no virtiofsd serves the root",
    pattern=re.compile(r"no virtiofsd serves |request_wait_answer\+0x"),
    cause="the guest's virtiofsd has ended, and every access to a file hangs",
    remedy="run ./inv stop {name} --force, then ./inv start {name}, since a reboot is not enough; "
    "./inv logs {name} --virtiofsd may have the reason",
)

SYMPTOMS = (
    # Refused before anything runs.
    Symptom(
        name="refused-path",
        heading="virtroot: vmlinuz: leaves the root through a link",
        pattern=re.compile(
            r"leaves the root through a link|: is a loop of links|: not a regular file"
            r"|: not a directory of the root itself"
            # The words of the hook of former versions.
            r"|: is no regular file|is no directory of the root's own"
        ),
        cause="a path in the guest's root leads out of it, or has the wrong type",
        remedy="check that path below the root with ls -l, and fix it there",
    ),
    Symptom(
        name="shared-memory",
        heading="'virtiofs' requires shared memory",
        pattern=re.compile(r"virtiofs'? requires shared memory"),
        cause="the domain's memory is not shared with virtiofsd",
        remedy=_SHARE_MEMORY,
    ),
    Symptom(
        name="no-virtiofsd",
        heading="Unable to find a satisfying virtiofsd",
        pattern=re.compile(
            r"Unable to find a satisfying virtiofsd|virtiofsd binary '[^'\n]{1,400}' is not executable"
            r"|virtroot: no virtiofsd is installed"
        ),
        cause="libvirt finds no virtiofsd on its host",
        remedy="install virtiofsd there (a package of that name; Debian 12: qemu-system-common), with its "
        "file in /usr/share/qemu/vhost-user; run ./inv doctor --fix for virtroot's wrapper",
    ),
    Symptom(
        name="lock-element",
        heading="locking options are not supported by this virtiofsd",
        pattern=re.compile(r"locking options are not supported by this virtiofsd"),
        cause="the domain has a <lock> element, which virtiofsd no longer supports",
        remedy="remove it: virsh edit {name}",
    ),
    Symptom(
        name="network-inactive",
        heading="network 'default' is not active",
        pattern=re.compile(r"network '[^'\n]{1,100}' is not active|no network with matching name '"),
        cause="the domain's network is not active in libvirt",
        remedy="start it: virsh net-start default, virsh net-autostart default; or use another one: virsh edit {name}",
    ),
    # These end virtiofsd or QEMU at their start.
    Symptom(
        name="sandbox-denied",
        heading="mount(/, MS_REC|MS_SLAVE): Permission denied",
        pattern=re.compile(
            r"mount\(/, MS_REC\|MS_SLAVE\): Permission denied|Error entering sandbox: [^\n]{0,200}PermissionDenied"
        ),
        cause="AppArmor, SELinux or a container's limits prevent virtiofsd's sandbox",
        remedy="find the denial with dmesg | grep -i denied on libvirt's host, and allow it in that profile",
    ),
    Symptom(
        name="missing-capability",
        heading="can't apply the child capabilities: failed to sync capabilities with the kernel",
        pattern=re.compile(r"can't apply the child capabilities"),
        cause="virtiofsd needs a capability that libvirt's daemon does not have",
        remedy="run ./inv doctor {name} --fix, which turns off file handles, the default of 1.14; with overlayfs "
        "it needs CAP_SYS_ADMIN",
    ),
    Symptom(
        name="invalid-param",
        heading="HandleRequest(InvalidParam)",
        pattern=re.compile(r"HandleRequest\(InvalidParam\)"),
        cause="virtiofsd cannot access the guest's memory, which is not shared",
        remedy=_SHARE_MEMORY,
    ),
    Symptom(
        name="kernel-unreadable",
        heading="could not load kernel: Permission denied",
        pattern=re.compile(
            r"(?:could not (?:load|open) kernel(?: file)?|error reading initrd) [^\n]{1,400}: Permission denied"
        ),
        cause="QEMU's user cannot read the guest's kernel or initramfs",
        remedy="run ./inv doctor {name} --fix for virtroot's directories, and chmod o+x the others above that file",
    ),
    Symptom(
        name="virtiofsd-died",
        heading="virtiofsd died unexpectedly",
        pattern=re.compile(
            r"virtiofsd died (?:unexpectedly|and reported)|Could not start 'virtiofsd'"
            r"|Failed to connect to '[^'\n]{1,400}-fs\.sock': Connection refused"
        ),
        cause="virtiofsd ended at its start",
        remedy="check its log: ./inv logs {name} --virtiofsd; then check <binary> in virsh dumpxml {name}",
    ),
    # These end virtiofsd later, or show that it has ended.
    Symptom(
        name="too-many-files",
        heading="Too many open files",
        # Go's messages start with a lower-case letter, here and below.
        pattern=re.compile(r"Too many open files", re.IGNORECASE),
        cause="virtiofsd, or a program in the guest, has reached its limit of open files",
        remedy="run ./inv restart {name}; to prevent it, raise the limit of libvirtd's service, or the program's",
        comes_up=True,
    ),
    GONE,
    # These prevent the mount of the root.
    Symptom(
        name="tag-not-found",
        heading="virtio-fs: tag <root> not found",
        pattern=re.compile(
            r"virtio-fs: tag <[^>\n]{1,100}> not found|no virtiofs root with the tag '"
            r"|wrong fs type, bad option, bad superblock on [A-Za-z0-9_.-]{1,36},"
        ),
        cause="the guest's kernel found no virtiofs device with the tag of its root",
        remedy="make <target dir=…> and root= in virsh dumpxml {name} equal; if they are, its initramfs "
        "lacks virtio_pci",
    ),
    Symptom(
        name="no-virtiofs",
        heading="unknown filesystem type 'virtiofs'",
        pattern=re.compile(
            r"unknown filesystem type '?virtiofs"
            # The mount in initramfs-tools' image is that of klibc or busybox.
            r"|(?m:^mount: No such device$)"
            r"|mounting [^\n]{1,100} on /(?:root|sysroot|new_root) failed: No such device"
            r"|fs-virtiofs succeeded, but still no fs"
            r"|VFS: Unable to mount root fs"
        ),
        cause="neither the guest's kernel nor its initramfs has virtiofs",
        remedy="add virtiofs and virtio_pci to the initramfs and generate it again; ./inv build does so for new roots",
    ),
    Symptom(
        name="waits-for-device",
        heading="Timed out waiting for device /dev/root",
        pattern=re.compile(
            r"Timed out waiting for device [^\n]{0,200}/dev/(?:root|disk/|mapper/|[shv]d[a-z]|nvme|md)"
            r"|ALERT! {1,4}[^\n]{1,200} does not exist"
            r"|Gave up waiting for (?:root file system|suspend/resume) device"
            r"|Waiting for root device /dev/"
        ),
        cause="the boot waits for a disk, but a root on virtiofs has none",
        remedy="find that device on the kernel's command line (virsh dumpxml {name}), in the root's /etc/fstab or "
        "in the resume setting of its initramfs, and remove it",
    ),
    Symptom(
        name="waits-for-cloud",
        heading="A start job is running for Cloud-init",
        pattern=re.compile(
            r"start job is running for [^\n]{0,40}(?:[Cc]loud-init|metadata service)"
            r"|(?i:Calling|url)[^\n]{0,40}http://169\.254\.169\.254/[^\n]{0,200}(?:failed|timed out|unreachable)"
        ),
        cause="cloud-init waits for the data of a cloud, but the guest does not run in one",
        remedy="run ./inv stop {name} --force, create the empty file /etc/cloud/cloud-init.disabled in its root, "
        "run ./inv start {name}",
    ),
    Symptom(
        name="posix-acl",
        heading="switch_root: can't change directory to '/newroot': Connection refused",
        pattern=re.compile(r"switch_root[^\n]{0,200}Connection refused"),
        cause="the guest's kernel rejects an option of virtiofsd, as kernels before 5.13 do with POSIX ACLs",
        remedy="run ./inv doctor {name} --fix, which turns them off for such a kernel; or remove --posix-acl from "
        "your own wrapper",
    ),
    Symptom(
        name="stale-handle",
        heading="Stale file handle",
        pattern=re.compile(r"Stale (?:NFS )?file handle", re.IGNORECASE),
        cause="files of the root were replaced on the host while the guest had them open",
        remedy="run ./inv restart {name}; replace directories of a root only while its guest is off",
    ),
    Symptom(
        name="no-init",
        heading="No init found. Try passing init= bootarg.",
        pattern=re.compile(
            r"No init found\. Try passing init=|No working init found|Requested init [^\n]{1,200} failed"
            r"|doesn't have requested /sbin/init|switch_root: can't execute '"
        ),
        cause="the root has no working init",
        remedy="check that /sbin/init in the root, the program that it links to and its interpreter exist",
    ),
    # Guests that are up show these.
    ROOT_MODE,
    OVERLAYFS,
    Symptom(
        name="nested-overlay",
        heading="Too many levels of symbolic links",
        pattern=re.compile(
            r"overlayfs: (?:overlapping [a-z]{5,8} path|maximum fs stacking depth exceeded)"
            # The path of a loop of links may contain any of these words, so they must be in the places of mount's.
            r"|(?<![\w/])mount(?:ing)? overlay[^\n]{0,400}: Too many levels of symbolic links"
            r"|overlay mount to [^\n]{1,400}: Too many levels of symbolic links"
            r"|failed to mount [^\n]{1,400}: Too many levels of symbolic links"
            r"|mount\(2\) system call failed: Too many levels of symbolic links",
            re.IGNORECASE,
        ),
        cause="an overlay on an overlay, which the kernel does not allow",
        remedy="put the guest's upper directories on a share or a tmpfs, or give it a root without an overlay: "
        "./inv upgrade {name} --clone copy",
        comes_up=True,
    ),
    Symptom(
        name="object-is-remote",
        heading="Object is remote",
        pattern=re.compile(r"Object is remote", re.IGNORECASE),
        cause="an overlay in the guest contains a mount or subvolume of the host",
        remedy="find what is mounted below the root or share with findmnt on libvirt's host; unshare the directory "
        "around it, and share the mount instead",
        comes_up=True,
    ),
    Symptom(
        name="filesystem-loop",
        heading="File system loop detected",
        pattern=re.compile(r"File system loop detected|Circular directory structure"),
        cause="the guest sees two file systems of the host as one, with equal inode numbers of directories",
        remedy="find what is mounted below the root or share with findmnt on libvirt's host; unshare the directory "
        "around it, and share the mount instead",
        comes_up=True,
    ),
    Symptom(
        name="mmap-refused",
        heading="mmap failed: No such device",
        pattern=re.compile(
            r"mmap[^\n]{0,100}: No such device(?! or)|No such device \(os error 19\)"
            # Python's message for mmap has no file name; with one, a device is missing.
            r"|(?m:\[Errno 19\] No such device$)",
            re.IGNORECASE,
        ),
        cause="mmap of a file with MAP_SHARED failed, as with the cache mode none",
        remedy="remove <cache mode='none'/>: virsh edit {name}; for new guests change --cache or cache: in the recipe",
        comes_up=True,
    ),
    Symptom(
        name="host-key",
        heading="REMOTE HOST IDENTIFICATION HAS CHANGED",
        pattern=re.compile(r"REMOTE HOST IDENTIFICATION HAS CHANGED"),
        cause="ssh has recorded another host key for this name or address",
        remedy="use ./inv ssh {name}, which knows the guest's key; for plain ssh run ssh-keygen -R {name}",
        comes_up=True,
    ),
    # Consequences of another failure that no pattern matches.
    TIMERS,
    Symptom(
        name="message-header",
        heading="Failed to read msg header",
        pattern=re.compile(
            r"Failed to (?:read|write) msg|vhost_dev_init failed|Unexpected end-of-file before all data"
        ),
        cause="virtiofsd ended while QEMU was connected to it",
        remedy="check its log: ./inv logs {name} --virtiofsd; then run ./inv restart {name} --force",
    ),
    Symptom(
        name="root-locked",
        heading="Cannot open access to console, the root account is locked",
        pattern=re.compile(r"the root account is locked|You are in emergency mode|Entering emergency mode"),
        cause="an earlier failure put the guest into emergency mode, which requires a root password",
        remedy="find the first FAILED line above: ./inv logs {name}",
    ),
)
