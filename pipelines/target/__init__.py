"""Where commands run: this machine or a container; files, locks and mounts there."""
