# shellcheck shell=sh
# Starts the command. A login reads /etc/environment, too, for example the settings of a proxy.
echo $$ > "$0/pid" || exit 125
umask 022
unset INVOCATION_ID JOURNAL_STREAM SYSTEMD_EXEC_PID NOTIFY_SOCKET MEMORY_PRESSURE_WATCH MEMORY_PRESSURE_WRITE
while IFS=: read -r USER _ uid _ _ HOME SHELL; do
    if [ "$uid" = 0 ]; then break; fi
done < /etc/passwd
USER=${USER:-root} HOME=${HOME:-/root} SHELL=${SHELL:-/bin/sh} LOGNAME=${USER:-root}
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export USER HOME SHELL LOGNAME PATH
if [ -r /etc/environment ]; then
    while IFS= read -r line || [ -n "$line" ]; do
        line=${line#export } name=${line%%=*} value=${line#*=}
        case $name in "$line" | '' | [0-9]* | *[!A-Za-z0-9_]*) continue ;; esac
        case $value in \"*\" | \'*\') value=${value#?} value=${value%?} ;; esac
        export "$name=$value"
    done < /etc/environment
fi
cd "$HOME" 2> /dev/null || cd /
unset OLDPWD uid line name value
exec "$@"
