"""The command line: parsing of arguments, shell completion, and exit status."""
