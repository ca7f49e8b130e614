"""Language models that need no hub."""
