"""PDF files: pages, words, and how they are laid out."""
