"""Pretraining of the shipped stand-ins: a small tokenizer, a small Llama in two qualities, a small SigLIP-type ViT."""
