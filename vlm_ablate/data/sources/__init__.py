"""Data sources: one file per record schema, all becoming `Sample`."""
