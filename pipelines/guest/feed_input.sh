# shellcheck shell=sh
exec 3<> "$0/more"
touch "$0/open"
next=0
while read -r number <&3; do
    if [ "$number" = end ]; then break; fi
    if [ "$number" = "$next" ]; then
        cat "$0/in.$number" || break
        rm -f "$0/in.$number"
        next=$((next + 1))
    fi
done
touch "$0/closed"
