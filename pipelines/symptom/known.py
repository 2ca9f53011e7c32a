"""The symptoms that are known, causes before what follows from them; the book has a section for each."""

from __future__ import annotations

import re

from pipelines.symptom.symptom import Symptom

_SHARE_MEMORY = (
    "put <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking> into the domain: "
    "virsh edit {name}"
)

#: Nothing in the guest's root is broken: its virtiofsd may not write the attributes that overlayfs keeps.
OVERLAYFS = Symptom(
    name="overlayfs",
    heading="overlayfs: upper fs missing required features",
    pattern=re.compile(
        r"overlayfs: upper fs missing required features"
        r"|overlayfs: failed to set xattr on upper"
        r"|failed to mount overlay: [^\n]{0,400}storage-driver=overlay2"
        r"|driver not supported: overlay2"
    ),
    cause="the guest's root cannot hold overlayfs' upper directories, which Docker's overlay2 needs",
    remedy="install it with --overlayfs, or say guest: {overlayfs: true} in its recipe; one that is there gets it by "
    "<binary path='/etc/libvirt/hooks/virtroot/virtiofsd-acl-overlayfs' xattr='on'>: virsh edit {name}",
    comes_up=True,
)

#: What a kernel says whose timers do not fire, as under software emulation now and then.
TIMERS = Symptom(
    name="timers-stopped",
    heading="rcu: rcu_preempt kthread starved",
    pattern=re.compile(r"rcu[^\n]{0,80}(?:stall|starved)|soft lockup|timer doesn't work", re.IGNORECASE),
    cause="the guest's timers stopped, or it got no processor for a long time",
    remedy="start it once more: ./inv stop {name} --force, ./inv start {name}; give the machine less to do meanwhile",
)

#: The root's own directory, which is the guest's /.
ROOT_MODE = Symptom(
    name="root-mode",
    heading="bad ownership or modes for directory /",
    pattern=re.compile(
        r"bad ownership or modes for directory /(?![A-Za-z0-9_.-])|Detected unsafe path transition / ", re.IGNORECASE
    ),
    cause="the root's own directory is not root's with the mode 0755",
    remedy="./inv doctor {name} --fix mends the mode; for the owner, chown root:root what ./inv info {name} calls root",
    comes_up=True,
)

#: Said by virtroot itself, which looks for the processes; the kernel's words are those of a task that waits for them.
GONE = Symptom(
    name="virtiofsd-gone",
    heading="no virtiofsd serves the root",
    pattern=re.compile(r"no virtiofsd serves |request_wait_answer\+0x"),
    cause="the guest's virtiofsd has ended, and whoever needs a file waits for ever",
    remedy="a reboot is not enough: ./inv stop {name} --force, then ./inv start {name}; "
    "./inv logs {name} --virtiofsd may say why it ended",
)

SYMPTOMS = (
    # What is refused before anything runs.
    Symptom(
        name="refused-path",
        heading="virtroot: vmlinuz: leaves the root through a link",
        pattern=re.compile(
            r"leaves the root through a link|: is a loop of links|: not a regular file"
            r"|: not a directory of the root itself"
            # The words of the hook of former versions.
            r"|: is no regular file|is no directory of the root's own"
        ),
        cause="a path in the guest's root leads out of it, or is not what has to be there",
        remedy="look at that path below the root with ls -l, and mend it there",
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
        cause="libvirt finds no virtiofsd on its machine",
        remedy="install virtiofsd there (a package of that name; Debian 12: qemu-system-common), with its "
        "file in /usr/share/qemu/vhost-user; ./inv doctor --fix puts virtroot's wrapper back",
    ),
    Symptom(
        name="lock-element",
        heading="locking options are not supported by this virtiofsd",
        pattern=re.compile(r"locking options are not supported by this virtiofsd"),
        cause="the domain has a <lock> element, which virtiofsd takes no more",
        remedy="take it out: virsh edit {name}",
    ),
    Symptom(
        name="network-inactive",
        heading="network 'default' is not active",
        pattern=re.compile(r"network '[^'\n]{1,100}' is not active|no network with matching name '"),
        cause="the network that the domain names does not run in libvirt",
        remedy="start it: virsh net-start default, virsh net-autostart default; or name another one: virsh edit {name}",
    ),
    # What ends virtiofsd or QEMU as they begin.
    Symptom(
        name="sandbox-denied",
        heading="mount(/, MS_REC|MS_SLAVE): Permission denied",
        pattern=re.compile(
            r"mount\(/, MS_REC\|MS_SLAVE\): Permission denied|Error entering sandbox: [^\n]{0,200}PermissionDenied"
        ),
        cause="AppArmor, SELinux or a container's limits keep virtiofsd from making its sandbox",
        remedy="see what was denied, by dmesg | grep -i denied on libvirt's machine, and allow it in that profile",
    ),
    Symptom(
        name="missing-capability",
        heading="can't apply the child capabilities: failed to sync capabilities with the kernel",
        pattern=re.compile(r"can't apply the child capabilities"),
        cause="virtiofsd wants a capability that libvirt's daemon does not have",
        remedy="./inv doctor {name} --fix lets it do without file handles, which 1.14 wants by itself; with overlayfs "
        "it needs CAP_SYS_ADMIN",
    ),
    Symptom(
        name="invalid-param",
        heading="HandleRequest(InvalidParam)",
        pattern=re.compile(r"HandleRequest\(InvalidParam\)"),
        cause="virtiofsd cannot reach the guest's memory, which is not shared",
        remedy=_SHARE_MEMORY,
    ),
    Symptom(
        name="kernel-unreadable",
        heading="could not load kernel: Permission denied",
        pattern=re.compile(
            r"(?:could not (?:load|open) kernel(?: file)?|error reading initrd) [^\n]{1,400}: Permission denied"
        ),
        cause="QEMU's user cannot read the guest's kernel or initramfs",
        remedy="./inv doctor {name} --fix opens the directories; others above the file it names, chmod o+x does",
    ),
    Symptom(
        name="virtiofsd-died",
        heading="virtiofsd died unexpectedly",
        pattern=re.compile(
            r"virtiofsd died (?:unexpectedly|and reported)|Could not start 'virtiofsd'"
            r"|Failed to connect to '[^'\n]{1,400}-fs\.sock': Connection refused"
        ),
        cause="virtiofsd ended as soon as libvirt had started it",
        remedy="its own log may say why: ./inv logs {name} --virtiofsd; then look at <binary> in virsh dumpxml {name}",
    ),
    # What ends virtiofsd later, and that it has ended.
    Symptom(
        name="too-many-files",
        heading="Too many open files",
        # Go's library begins with a small letter, and so with the next ones.
        pattern=re.compile(r"Too many open files", re.IGNORECASE),
        cause="virtiofsd, or a program of the guest, has as many files open as it may",
        remedy="./inv restart {name} lets go of them; for good raise the limit of libvirtd's service, or the program's",
        comes_up=True,
    ),
    GONE,
    # What keeps a kernel from its root.
    Symptom(
        name="tag-not-found",
        heading="virtio-fs: tag <root> not found",
        pattern=re.compile(
            r"virtio-fs: tag <[^>\n]{1,100}> not found|no virtiofs root with the tag '"
            r"|wrong fs type, bad option, bad superblock on [A-Za-z0-9_.-]{1,36},"
        ),
        cause="the guest's kernel found no virtiofs device with the tag of its root",
        remedy="see that <target dir=…> and root= in virsh dumpxml {name} say the same; where they do, its initramfs "
        "lacks virtio_pci",
    ),
    Symptom(
        name="no-virtiofs",
        heading="unknown filesystem type 'virtiofs'",
        pattern=re.compile(
            r"unknown filesystem type '?virtiofs"
            # initramfs-tools' mount is klibc's, or busybox's.
            r"|(?m:^mount: No such device$)"
            r"|mounting [^\n]{1,100} on /(?:root|sysroot|new_root) failed: No such device"
            r"|fs-virtiofs succeeded, but still no fs"
            r"|VFS: Unable to mount root fs"
        ),
        cause="the guest's kernel has no virtiofs, and its initramfs did not bring it",
        remedy="get virtiofs and virtio_pci into the initramfs and make that anew; ./inv build does so for new roots",
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
        cause="the boot waits for a disk, and a root on virtiofs has none",
        remedy="look for that device on the kernel's command line (virsh dumpxml {name}), in the root's /etc/fstab and "
        "in its initramfs' resume setting",
    ),
    Symptom(
        name="waits-for-cloud",
        heading="A start job is running for Cloud-init",
        pattern=re.compile(
            r"start job is running for [^\n]{0,40}(?:[Cc]loud-init|metadata service)"
            r"|(?i:Calling|url)[^\n]{0,40}http://169\.254\.169\.254/[^\n]{0,200}(?:failed|timed out|unreachable)"
        ),
        cause="cloud-init waits for the data of a cloud, and the guest is in none",
        remedy="./inv stop {name} --force, make the empty file /etc/cloud/cloud-init.disabled in its root, "
        "./inv start {name}",
    ),
    Symptom(
        name="posix-acl",
        heading="switch_root: can't change directory to '/newroot': Connection refused",
        pattern=re.compile(r"switch_root[^\n]{0,200}Connection refused"),
        cause="the guest's kernel refuses what virtiofsd offers, as old ones do with POSIX ACLs",
        remedy="./inv doctor {name} --fix, which lets a kernel before 5.13 go without them; or take --posix-acl out of "
        "a wrapper of your own",
    ),
    Symptom(
        name="stale-handle",
        heading="Stale file handle",
        pattern=re.compile(r"Stale (?:NFS )?file handle", re.IGNORECASE),
        cause="files of the root were replaced on the host while the guest had them open",
        remedy="./inv restart {name}; replace directories of a root only while its guest is off",
    ),
    Symptom(
        name="no-init",
        heading="No init found. Try passing init= bootarg.",
        pattern=re.compile(
            r"No init found\. Try passing init=|No working init found|Requested init [^\n]{1,200} failed"
            r"|doesn't have requested /sbin/init|switch_root: can't execute '"
        ),
        cause="the root has no init that runs",
        remedy="see what /sbin/init is in the root, and whether the program it leads to and its interpreter are there",
    ),
    # What guests show that are up.
    ROOT_MODE,
    OVERLAYFS,
    Symptom(
        name="nested-overlay",
        heading="Too many levels of symbolic links",
        pattern=re.compile(
            r"overlayfs: (?:overlapping [a-z]{5,8} path|maximum fs stacking depth exceeded)"
            # A path that a link leads in a circle may have any of these words in it: they stand where mount's do.
            r"|(?<![\w/])mount(?:ing)? overlay[^\n]{0,400}: Too many levels of symbolic links"
            r"|overlay mount to [^\n]{1,400}: Too many levels of symbolic links"
            r"|failed to mount [^\n]{1,400}: Too many levels of symbolic links"
            r"|mount\(2\) system call failed: Too many levels of symbolic links",
            re.IGNORECASE,
        ),
        cause="overlays lie on one another, and the kernel does not take it",
        remedy="keep the guest's upper directories on a share or a tmpfs, or give it a root that lies on nothing: "
        "./inv upgrade {name} --clone copy",
        comes_up=True,
    ),
    Symptom(
        name="object-is-remote",
        heading="Object is remote",
        pattern=re.compile(r"Object is remote", re.IGNORECASE),
        cause="an overlay in the guest met a mount or subvolume of the host's",
        remedy="see what is mounted below the root or share: findmnt on libvirt's machine; share that in place of what "
        "it lies in, which has to go first",
        comes_up=True,
    ),
    Symptom(
        name="filesystem-loop",
        heading="File system loop detected",
        pattern=re.compile(r"File system loop detected|Circular directory structure"),
        cause="two file systems of the host are one to the guest, and directories of both have the same number",
        remedy="see what is mounted below the root or share: findmnt on libvirt's machine; share that in place of what "
        "it lies in, which has to go first",
        comes_up=True,
    ),
    Symptom(
        name="mmap-refused",
        heading="mmap failed: No such device",
        pattern=re.compile(
            r"mmap[^\n]{0,100}: No such device(?! or)|No such device \(os error 19\)"
            # Python's mmap names no file; where there is one, that is a device which is missing.
            r"|(?m:\[Errno 19\] No such device$)",
            re.IGNORECASE,
        ),
        cause="a file cannot be mapped into memory with MAP_SHARED, as under the cache mode none",
        remedy="take <cache mode='none'/> out: virsh edit {name}; a new guest has it where --cache or a recipe says so",
        comes_up=True,
    ),
    Symptom(
        name="host-key",
        heading="REMOTE HOST IDENTIFICATION HAS CHANGED",
        pattern=re.compile(r"REMOTE HOST IDENTIFICATION HAS CHANGED"),
        cause="ssh remembers another host key for this name or address",
        remedy="./inv ssh {name} knows the guest's key; plain ssh forgets the old one by ssh-keygen -R {name}",
        comes_up=True,
    ),
    # What follows from something else, which none of these patterns knows.
    TIMERS,
    Symptom(
        name="message-header",
        heading="Failed to read msg header",
        pattern=re.compile(
            r"Failed to (?:read|write) msg|vhost_dev_init failed|Unexpected end-of-file before all data"
        ),
        cause="virtiofsd ended while QEMU spoke with it",
        remedy="its own log may say why: ./inv logs {name} --virtiofsd; then ./inv restart {name} --force",
    ),
    Symptom(
        name="root-locked",
        heading="Cannot open access to console, the root account is locked",
        pattern=re.compile(r"the root account is locked|You are in emergency mode|Entering emergency mode"),
        cause="something failed before, and the guest is in emergency mode, which nobody can enter",
        remedy="look above that line for the first that FAILED: ./inv logs {name}",
    ),
)
