#!/bin/sh
# libvirt starts this instead of virtiofsd. The words in its own name say what the guest needs (see wrappers.py):
#   acl        the guest's kernel takes POSIX ACLs; without them its kernel decides by mode bits alone, and the group
#              bits of a file with an ACL are the ACL's mask: the owning group gets in where the ACL keeps it out.
#   overlayfs  the daemon keeps CAP_SYS_ADMIN, without which nobody may write the attributes (trusted.overlay.*) that
#              overlayfs keeps in its upper directory.
#   handles    the daemon refers to files by handles instead of keeping each one open.
# Former versions had the one name virtiofsd, for guests with overlayfs.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
name=${0##*/}
[ "$name" != virtiofsd ] || name=virtiofsd-overlayfs
needs() { case $name- in *-"$1"-*) ;; *) return 1 ;; esac }
has_xattr() {
    for argument do
        case $argument in --xattr | xattr | xattr,* | *,xattr | *,xattr,*) return 0 ;; esac
    done
    return 1
}
shared_directory() {
    while [ $# -gt 0 ]; do
        case $1 in
        --shared-dir) printf '%s\n' "$2" && return ;;
        --shared-dir=*) printf '%s\n' "${1#*=}" && return ;;
        source=* | *,source=*) source=${1#*source=} && printf '%s\n' "${source%%,*}" && return ;;
        esac
        shift
    done
}
# On a file system without ACLs each access by a user who is not the owner would fail: the guest's kernel asks for them.
takes_acls() {
    python3 -I -S -c '
import errno, os, sys
try:
    os.getxattr(sys.argv[1], "system.posix_acl_access")
except OSError as error:
    sys.exit(error.errno != errno.ENODATA)' "$1"
}
# The daemon that libvirt itself would take, and where distributions put it.
described=$(cat /etc/qemu/vhost-user/*.json /usr/share/qemu/vhost-user/*.json 2>/dev/null |
    sed -n 's/.*"binary": *"\([^" ]*virtiofsd[^" ]*\)".*/\1/p')
for daemon in $described /usr/libexec/virtiofsd /usr/lib/virtiofsd /usr/lib/qemu/virtiofsd; do
    [ -x "$daemon" ] || continue
    [ "$1" != --print-capabilities ] || exec "$daemon" "$@"
    # The one written in C, which QEMU brought until 8.0, takes its options after -o.
    usage=$("$daemon" --help 2>&1)
    acl=
    case $usage in
    # From 1.14 on it asks the guest's kernel, and goes on without.
    *'--posix-acl[='*auto*) acl=--posix-acl=auto ;;
    *--posix-acl*) ! needs acl || acl=--posix-acl ;;
    *posix_acl*) ! needs acl || acl=-oposix_acl ;;
    esac
    if [ -n "$acl" ] && has_xattr "$@" && takes_acls "$(shared_directory "$@")"; then set -- "$acl" "$@"; fi
    case $usage in
    *--inode-file-handles*)
        # 1.14 prefers handles and does not start where it cannot have the capability that they need.
        handles=never
        if needs handles; then
            case $(sed -n 's/^CapEff:[[:space:]]*//p' /proc/self/status) in
            *[4-7c-f]) handles=prefer ;;
            *) echo "virtroot: no CAP_DAC_READ_SEARCH here, so virtiofsd uses no file handles" >&2 ;;
            esac
        fi
        set -- "--inode-file-handles=$handles" "$@"
        ;;
    esac
    if needs overlayfs; then
        case $usage in
        *--modcaps*) set -- --modcaps=+sys_admin "$@" ;;
        *) set -- -o modcaps=+sys_admin "$@" ;;
        esac
    fi
    # shellcheck disable=SC2093 # the first daemon that is installed ends the loop
    exec "$daemon" "$@"
done
echo "virtroot: no virtiofsd is installed" >&2
exit 127
