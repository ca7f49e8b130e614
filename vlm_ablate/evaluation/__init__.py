"""Benchmarks, metrics, few-shot prompts and batched generation."""
