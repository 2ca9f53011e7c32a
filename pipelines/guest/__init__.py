"""Guests: the root in the pool, the boot directory with its kernel, and the domain."""
