"""Artifacts: the manifest, the tarball, and the output directory."""
