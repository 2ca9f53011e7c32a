"""Existing systems that are brought in: what they are, and what a root on virtiofs asks of them. Pure."""
