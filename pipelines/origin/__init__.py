"""The import of existing systems: their facts, and the changes that a root on virtiofs needs."""
