"""A guest's own state and another root: what differs, what collides, and what is copied over."""
