#!/bin/sh
# Gathers in a running guest what its checks look at. Prints how many facts there are; a line with the name and exit
# status of each; the bytes of each one's output and errors, as wc prints them; and then all outputs and errors. So
# nothing is started here but the commands themselves: an emulated guest is slow at that. Arguments: the commands that
# list and check packages, the path of the kernel where there is no initramfs, and for each share its tag and rw or ro.
query=$1 check=$2 kernel=$3
shift 3
directory=$(mktemp -d /run/virtroot-facts.XXXXXX) && cd "$directory" || exit 1
trap 'rm -rf "$directory"' EXIT
count=0 index='' files=''

fact() {
    name=$1
    shift
    "$@" > "$count.out" 2> "$count.err" < /dev/null
    index="$index$name $?
"
    files="$files $count.out $count.err"
    count=$((count + 1))
}

fact echo printf %s 'a b'
fact state systemctl is-system-running --wait
fact failed systemctl --failed --no-legend --plain
fact root findmnt --noheadings --output FSTYPE,OPTIONS --mountpoint /
fact writable sh -ec 'touch /virtroot-writable; rm /virtroot-writable'
fact owner stat --format='%U %a' /
fact kernel uname -r
fact kernels ls /usr/lib/modules
if [ -n "$kernel" ]; then
    # The kernel that the guest would load next; an upgrade may have brought another one than runs.
    next=$(readlink -f "/$kernel")
    next=${next##*/}
    next=${next#vmlinuz-}
    if [ ! -d "/usr/lib/modules/$next" ]; then next=$(uname -r); fi
    fact next echo "$next"
    fact builtin cat "/usr/lib/modules/$next/modules.builtin"
fi
fact packages sh -c "$query"
fact packages-check sh -c "$check"
fact fstab cat /etc/fstab
fact usr findmnt --noheadings --output SOURCE --target /usr
fact devices stat --dereference --format=%d /proc/1/exe /usr
while [ $# -ge 2 ]; do
    fact "share.$1" findmnt --noheadings --first-only --types virtiofs --output TARGET "$1"
    if [ "$2" = ro ]; then
        point=$(cat "$((count - 1)).out")
        fact "share-write.$1" touch "$point/.virtroot-writable"
    fi
    shift 2
done
fact grub test -e /boot/grub
fact machine-id cat /etc/machine-id
fact ssh-key cat /etc/ssh/ssh_host_ed25519_key.pub
fact ssh-keys find /etc -path '/etc/ssh/ssh_host_*'
fact services systemctl show --property=ActiveState,UnitFileState qemu-guest-agent systemd-networkd ssh sshd
fact from-host cat /root/virtroot-from-host
fact to-host sh -ec 'rm -f /root/virtroot-from-host; echo from the guest > /root/virtroot-shared; sync'
fact overlay sh -c 'journalctl --boot --output=cat --no-pager | grep -i overlay | tail -c 65536'

printf '%s\n%s' "$count" "$index"
# shellcheck disable=SC2086 # names of files that this script gave
wc -c $files && cat $files
