"""What goes wrong with guests on virtiofs, how it shows, and what to do: data, and a look-up."""
