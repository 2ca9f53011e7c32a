#!/bin/sh
# Starts virtiofsd as a guest's start does, but on an empty directory, waits until it serves or has ended, and ends it.
# $1 is the text of the wrapper and $2 the name it is started by, or $1 is empty and $2 the daemon itself; $3 says
# "old" of the family in C. Prints what it says; the exit status is 0 where it came to serve.
umask 077
scratch=$(mktemp -d) || exit 1
daemon=
trap '[ -z "$daemon" ] || kill -s KILL -- "-$daemon" 2> /dev/null; rm -rf -- "$scratch"' EXIT
trap 'exit 1' HUP INT TERM PIPE
text=$1 name=$2 family=$3
socket=$scratch/socket
mkdir "$scratch/shared"
# The one in C goes to the background without -f.
if [ "$family" = old ]; then
    set -- "--socket-path=$socket" -f -o "source=$scratch/shared,xattr"
else
    set -- "--socket-path=$socket" --shared-dir "$scratch/shared" --xattr
fi
if [ -n "$text" ]; then set -- sh -c "$text" "$name" "$@"; else set -- "$name" "$@"; fi
# The background process may make the file only after it was first read here.
: > "$scratch/said"
setsid "$@" > "$scratch/said" 2>&1 < /dev/null &
daemon=$!
for _ in $(seq 100); do
    if grep -q 'Waiting for vhost-user socket' "$scratch/said"; then tail -c 4096 "$scratch/said"; exit 0; fi
    kill -0 "$daemon" 2> /dev/null || break
    sleep 0.1
done
tail -c 4096 "$scratch/said"
exit 1
