# Completion of virtroot's ./inv for bash: source this, or keep it in ~/.local/share/bash-completion/completions/inv.

_virtroot() {
    # bash splits words at "=" as well; --name=we is one word here.
    local word glue="" last
    local -a words=() found=()
    for word in "${COMP_WORDS[@]:1:COMP_CWORD}"; do
        last=$((${#words[@]} - 1))
        if [[ $word == "=" && last -ge 0 ]]; then
            words[last]+="="
            glue=yes
        elif [[ -n $glue ]]; then
            words[last]+=$word
            glue=
        else
            words+=("$word")
        fi
    done
    mapfile -t found < <(@INV@ --complete -- "${words[@]}" 2>/dev/null </dev/null)
    COMPREPLY=()
    if [[ ${found[0]-} == ":files" ]]; then
        compopt -o default
    elif [[ ${words[-1]-} == --*=* ]]; then
        # What is completed is only the part after the "=".
        found=("${found[@]#*=}")
    fi
    if [[ ${found[0]-} != ":files" ]]; then
        # bash inserts what is completed as it is, and would run a command that a guest is called after.
        for word in "${found[@]}"; do
            [[ -z $word ]] || COMPREPLY+=("$(printf %q "$word")")
        done
    fi
}

complete -F _virtroot inv invoke virtroot
