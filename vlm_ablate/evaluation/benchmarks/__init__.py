"""Benchmarks, one file each: items, prompt template, metric."""
