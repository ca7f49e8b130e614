"""Richer pictures, maps and documents that Debian's packages carry; fetched once, read as data, never installed."""
