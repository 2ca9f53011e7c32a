"""The parts of `./inv test` that are not pytest's: linters, branch coverage, and which tests a change can affect."""
