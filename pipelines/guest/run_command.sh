# shellcheck shell=sh
# Who creates the directory `taken` first passes the output on: this shell, or the reader on the host. The first letter
# that this shell prints says which of them it was. The files are in the guest's memory: each may use a quarter of the
# free space, and output beyond that is cut, as if the reader had closed the pipe. A child process that outlives the
# command keeps the pipes open; it is not waited for.
umask 077
directory=$1 login=$2 feed=$3; shift 3
mkdir "$directory" && echo $$ > "$directory/shell" && mkfifo "$directory/o" "$directory/e" || exit 125
limit=$(($(df -k --output=avail "$directory" | tail -n 1) * 256))
stdbuf -o0 head -c "$limit" < "$directory/o" > "$directory/out" &
first=$!
stdbuf -o0 head -c "$limit" < "$directory/e" > "$directory/err" &
second=$!
input=/dev/null feeder=
if [ -n "$feed" ]; then
    input=$directory/i
    mkfifo "$directory/more" "$input" || exit 125
    setsid /bin/sh -c "$feed" "$directory" < /dev/null > "$input" 2> /dev/null &
    feeder=$!
fi
setsid /bin/sh -c "$login" "$directory" "$@" > "$directory/o" 2> "$directory/e" < "$input"
status=$?
rm -f "$directory/pid"
touch "$directory/closed"
# Until the feeder has a session of its own, it has no process group of its own either.
if [ -n "$feeder" ]; then kill -TERM "-$feeder" 2> /dev/null || kill -TERM "$feeder" 2> /dev/null; fi
for _ in 1 2 3 4 5 6 7 8 9 10; do
    kill -0 "$first" 2> /dev/null || kill -0 "$second" 2> /dev/null || break
    sleep 0.1
done
kill "$first" "$second" 2> /dev/null
out=$(wc -c < "$directory/out") err=$(wc -c < "$directory/err")
cut=
free=$(df -k --output=avail "$directory" | tail -n 1)
if [ "$out" -ge "$limit" ] || [ "$err" -ge "$limit" ] || [ "$free" -lt 64 ]; then cut=c; fi
printf '%s %s\n' "$status" "$cut" > "$directory/status.new" && mv "$directory/status.new" "$directory/status"
if [ $((out + err)) -le 1048576 ] && [ -z "$cut" ] && mkdir "$directory/taken" 2> /dev/null; then
    printf s; cat "$directory/out"; cat "$directory/err" >&2
else
    printf r
fi
exit "$status"
