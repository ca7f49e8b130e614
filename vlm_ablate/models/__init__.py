"""Vision-language models put together from registered parts."""
