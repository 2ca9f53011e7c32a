"""``python -m virtroot``: the same as the program ``virtroot``."""

from . import main

main()
