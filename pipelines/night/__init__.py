"""One nightly run: its time, its units, its notices, and the report of all runs."""
