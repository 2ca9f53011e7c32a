# shellcheck shell=sh
# The two characters that separate the sections are removed from the root's content. Only regular files are read.
cd "$1" || exit; kernel=$2 initrd=$3
section() { printf '\036%s\037' "$1"; tr -d '\036\037'; }
plain() { [ -f "$1" ] && [ ! -L "$1" ]; }
readlink "$kernel" | section kernel
readlink "$initrd" | section initrd
if plain etc/fstab; then head -c 65536 etc/fstab; fi | section fstab
for trace in boot/grub boot/grub2 usr/sbin/grub-install etc/default/grub; do
    if [ -e "$trace" ] || [ -L "$trace" ]; then printf '%s\n' "$trace"; fi
done | section grub
for file in usr/lib/modules/*/modules.builtin; do
    if plain "$file"; then version=${file%/*}; sed "s|^|${version##*/} |" "$file"; fi
done | section builtin
for file in usr/lib/modules/*/pkgbase; do
    if plain "$file"; then version=${file%/*}; printf '%s %s\n' "${version##*/}" "$(head -c 256 "$file")"; fi
done | section pkgbase
# usage: missing DATABASE SOURCE...   An empty hardware database has 105 bytes.
missing() {
    if [ -e "$2" ] && [ "$(stat --format=%s "$1" 2> /dev/null || echo 0)" -lt 1024 ]; then echo "$1"; fi
}
{
    [ -e etc/udev/hwdb.bin ] || missing usr/lib/udev/hwdb.bin usr/lib/udev/hwdb.d/*.hwdb
    missing var/lib/systemd/catalog/database usr/lib/systemd/catalog/*.catalog
} | section databases
# Check it in a chroot, so that links are resolved as in the guest, and not to files of the builder.
# shellcheck disable=SC2016 # the shell in the chroot expands this
chroot . sh -c 'file=$(readlink -f /sbin/init) && [ -f "$file" ] && [ -x "$file" ] && echo "$file"' | section init
