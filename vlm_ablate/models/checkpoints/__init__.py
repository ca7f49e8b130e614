"""Import from and export to transformers' own checkpoints."""
