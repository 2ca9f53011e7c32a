"""What runs: the guest's root in the pool, its kernel's copy, its domain."""
