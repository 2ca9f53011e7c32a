# shellcheck shell=sh
# One command polls many times: starting a command in a container takes longer than one poll, and takes CPU time from
# the guest. The command ends by itself after a while, since nothing ends it when its task is killed.
end=$(($(date +%s) + $1)) log=$2 hopeless=$3 domain=$4
shift 4
while :; do
    if [ -n "$hopeless" ]; then
        if "$@" qemu-agent-command --timeout 5 "$domain" '{"execute":"guest-ping"}' > /dev/null 2>&1; then
            echo up; exit
        fi
        if tail -c 65536 "$log" 2> /dev/null | grep --text -qE "$hopeless"; then echo hopeless; exit; fi
    fi
    if [ "$("$@" domstate "$domain")" = 'shut off' ]; then echo off; exit; fi
    if [ "$(date +%s)" -ge "$end" ]; then echo neither; exit; fi
    sleep 0.5
done
