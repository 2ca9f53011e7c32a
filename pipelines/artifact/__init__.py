"""What was made: the manifest, the tarball and the directory they are kept in."""
