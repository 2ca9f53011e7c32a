"""Nightly runs: their schedule, their units, their notices, and the report of all runs."""
