"""What `./inv test` looks at: which files there are, and which tests a change can reach."""
