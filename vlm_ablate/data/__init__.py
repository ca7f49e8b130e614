"""Data: sources, image preparation, prompts, batches."""
