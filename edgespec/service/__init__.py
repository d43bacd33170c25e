"""The process that owns the model, and the one that watches it."""
