"""The doors: one module per outside thing."""
