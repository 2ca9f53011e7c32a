# shellcheck shell=sh
# The tree is not trusted: only regular files are read, up to a limit, and the two characters that separate the sections
# are removed from their content.
cd "$1" || exit; limit=$2 programs=$3; shift 3
section() { head -c 1048576 | { printf '\036%s\037' "$1"; tr -d '\036\037\000'; }; }
disks='["'"'"'=[:space:]](resume|resume_offset|root|rootfstype|rootflags|rd\.(luks|lvm|md|dm)[a-z.]*)='
cards='(en|wl)(o[0-9]+|[sP][0-9]+|p[0-9]+s[0-9]+|x[0-9a-f]{12})[0-9a-z]*|eth[0-9]+|wlan[0-9]+'
plain() { [ -f "$1" ] && [ ! -L "$1" ]; }
show() { if plain "$1"; then head -c "$limit" "$1"; fi; }
# shellcheck disable=SC2012 # only names that the rules know are looked for in it
ls -A | section top
for path do if [ -e "$path" ] || [ -L "$path" ]; then printf '%s\n' "$path"; fi; done | section found
for path in $programs; do
    if plain "$path"; then od -An -tx2 -j18 -N2 "$path"; break; fi
done | section machine
show usr/lib/os-release | section release
if plain etc/fstab; then stat --format=%s etc/fstab; fi | section size
show etc/fstab | section fstab
for path in etc/initramfs-tools/conf.d/* etc/initramfs-tools/initramfs.conf; do
    if plain "$path" && grep -Eqs '^[[:space:]]*(export[[:space:]]+)?RESUME=' "$path"; then printf '%s\n' "$path"; fi
done | section resume
for path in etc/initramfs-tools/conf.d/* etc/initramfs-tools/initramfs.conf; do
    if plain "$path" && grep -Es '^[[:space:]]*(export +)?FSTYPE=' "$path" | grep -Evq '="?auto"?[[:space:]]*$'
    then printf '%s\n' "$path"; fi
done | section fstype
for path in etc/dracut.conf etc/dracut.conf.d/*.conf; do
    if plain "$path" && grep -Es '^[[:space:]]*kernel_cmdline' "$path" | grep -Eq "$disks"
    then printf '%s\n' "$path"; fi
done | section dracut
for path in etc/mkinitcpio.d/*.preset; do
    if plain "$path" && grep -Eqs "^[[:space:]]*[A-Za-z_]+_config=[\"']?/etc/mkinitcpio.conf[\"']?[[:space:]]*$" "$path"
    then printf '%s\n' "$path"; fi
done | section presets
{ show etc/default/grub; for path in etc/default/grub.d/*.cfg; do show "$path"; done; } |
    grep -E '^[[:space:]]*GRUB_CMDLINE_LINUX' | section cmdline
show etc/machine-id | section machine-id
show etc/hostname | section hostname
show etc/crypttab | grep -Ev '^[[:space:]]*(#|$)' | section crypttab
what='^[[:space:]]*What=(/dev/|[A-Z]+=)'
for directory in etc usr/local/lib usr/lib; do
    for path in "$directory"/systemd/system/*.swap "$directory"/systemd/system/*.mount; do
        plain "$path" && [ ! -L "etc/systemd/system/${path##*/}" ] || continue
        # Swap on a file is swap on virtiofs, too.
        case $path in *.swap) shown=. ;; *) shown=$what ;; esac
        if grep -Eq "$shown" "$path"; then printf '%s\n' "${path##*/}"; fi
    done
done | sort -u | section units
for path in etc/network/interfaces etc/network/interfaces.d/* etc/netplan/*.yaml etc/netplan/*.yml \
    etc/systemd/network/*.network etc/systemd/network/*.link etc/NetworkManager/system-connections/* \
    etc/udev/rules.d/70-persistent-net.rules etc/udev/rules.d/*-persistent-net.rules; do
    if plain "$path"; then
        head -c "$limit" "$path" | grep -Ev '^[[:space:]]*#' | grep -Eo "\b($cards)\b" | sort -u |
            while read -r card; do printf '%s names the network card %s\n' "$path" "$card"; done
    fi
done | section cards
for path in boot/vmlinuz-*; do
    if plain "$path"; then printf '%s\n' "${path#boot/vmlinuz-}"; fi
done | sort -V | section kernels
for path in vmlinuz initrd.img boot/vmlinuz boot/initrd.img; do
    if [ -L "$path" ]; then printf '%s %s\n' "$path" "$(readlink "$path")"; fi
done | section links
for path in usr/lib/modules/*; do printf '%s\n' "${path##*/}"; done | section modules
