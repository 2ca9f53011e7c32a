"""Benchmarks: ratios against a peer run in the same go."""
