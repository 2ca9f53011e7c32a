# Completion of virtroot's ./inv for zsh: source this in .zshrc, after compinit.

_virtroot() {
    local -a found
    found=("${(@f)$(@INV@ --complete -- "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null </dev/null)}")
    if [[ $found[1] == ":files" ]]; then
        compset -P '*='
        _files
    elif [[ -n $found[1] ]]; then
        compadd -- "${found[@]}"
    fi
}

compdef _virtroot inv invoke virtroot
