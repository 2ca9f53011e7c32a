"""This machine: what it lacks, and whether the checkout is sound."""
