"""The build of a root: the builder's container, its inputs, the stages, the inspection."""
