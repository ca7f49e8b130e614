"""Vision encoders that need no hub."""
