# shellcheck shell=sh
# Of existing directories only libvirt's default one, and only while empty, may be closed to other users.
path=$1 own=$2 mark=$3
if [ -e "$path" ]; then
    [ -d "$path" ] || { echo "$path: not a directory"; exit 3; }
    closed=$(find "$path" -maxdepth 0 -user 0 ! -perm /077)
    if [ -z "$closed" ]; then
        [ "$path" = "$own" ] && [ -z "$(ls -A "$path")" ] ||
            { echo "$path exists, and other users can enter it"; exit 3; }
    fi
else
    mkdir -p "$path"
fi
chmod 0700 "$path"
: > "$path/$mark"
