"""What ./inv without arguments shows."""

#: The most used commands, in the order of use.
DAILY = (
    ("demo", "build a root, boot a guest, verify both"),
    ("build --distro debian", "build a root from recipes/debian.yaml"),
    ("install web --distro debian", "make a guest from it, shut off"),
    ("start web", "boot it, wait until it is up"),
    ("ssh web", "log in; also: exec web -- COMMAND"),
    ("list", "guests with state, address, age and size"),
    ("logs web", "show its console's log; also: doctor web"),
    ("verify web --boot", "check its root and the running guest"),
    ("upgrade web --restart", "upgrade to the newest root; undo: rollback"),
    ("nightly", "build, boot, verify, promote all recipes"),
)
