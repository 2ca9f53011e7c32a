# shellcheck shell=sh
# One call of the agent. The file is root's, of the group 64001, mode 0640, with the ACL u:64002:rw-, g::---, m::rw-.
# Without ACLs the group gets in, since the mode's group bits are the ACL's mask by then. Few guests have setfacl, and
# some no Python: Debian's perl-base can write the attribute, too (188 is setxattr on x86-64).
command -v setpriv > /dev/null || { echo 'cannot tell: no setpriv'; exit; }
scratch=$(mktemp -d /.virtroot-acl.XXXXXX) || exit
trap 'rm -rf -- "$scratch"' EXIT
file=$scratch/file name=system.posix_acl_access
echo in > "$file"
chmod 755 "$scratch"
chown 0:64001 "$file"
chmod 640 "$file"
acl=0200000001000600ffffffff0200060002fa000004000000ffffffff10000600ffffffff20000000ffffffff
if command -v setfacl > /dev/null; then
    said=$(setfacl -m u:64002:rw-,g::---,m::rw- "$file" 2>&1)
elif command -v python3 > /dev/null; then
    said=$(python3 -c 'import os, sys
os.setxattr(*sys.argv[1:3], bytes.fromhex(sys.argv[3]))' "$file" "$name" "$acl" 2>&1)
elif command -v perl > /dev/null; then
    said=$(perl -e 'my ($file, $name, $acl) = @ARGV; $acl = pack("H*", $acl);
exit 0 if syscall(188, $file, $name, $acl, length($acl), 0) == 0; print "$!"; exit 1' "$file" "$name" "$acl" 2>&1)
else
    echo 'cannot tell: no setfacl, python3 or perl'
    exit
fi || { echo "refused: $said"; exit; }
enter() { setpriv --reuid="$1" --regid="$2" --clear-groups cat "$file" 2> /dev/null || echo out; }
echo "user $(enter 64002 64002), group $(enter 64003 64001)"
