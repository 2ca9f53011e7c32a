"""Where a root is made: the container, what goes into it, its stages, its inspection."""
