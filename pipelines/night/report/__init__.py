"""What people look at in the morning: the histories of all recipes, as pages."""
