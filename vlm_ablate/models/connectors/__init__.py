"""Connectors: patch features in, visual tokens out. One file each."""
