"""Families of released checkpoints, one file each: what they are assembled of, how they name and write things."""
