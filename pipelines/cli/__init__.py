"""The command line: how words become a task's arguments, what the shell completes, and how every task ends."""
