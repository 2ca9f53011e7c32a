# Completion of virtroot's ./inv for fish: keep this in ~/.config/fish/completions/inv.fish.

function __virtroot
    set -l words (commandline --tokenize --cut-at-cursor --current-process)
    set -l found (@INV@ --complete -- $words[2..-1] (commandline --current-token --cut-at-cursor) 2>/dev/null </dev/null)
    if test "$found[1]" = ":files"
        __fish_complete_path (string replace --regex '^--[^=]*=' '' -- (commandline --current-token --cut-at-cursor))
    else if set -q found[1]
        string join \n -- $found
    end
end

for name in inv invoke virtroot
    complete --command $name --no-files --arguments '(__virtroot)'
end
