"""What lies in a pool of libvirt's: paths, roots, base trees, layers and shares."""
