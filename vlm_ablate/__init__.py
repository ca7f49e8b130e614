"""Ablation harness for vision-language models: does this design choice matter, and by how much?"""

__version__ = "0.1.0"
