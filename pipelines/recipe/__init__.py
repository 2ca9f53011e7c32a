"""What is wanted: recipes and the plans made from them. Pure: nothing here reads a file or runs a command."""
