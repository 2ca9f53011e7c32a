"""Recipes, and the plans made from them. Nothing in this package reads a file or runs a command."""
