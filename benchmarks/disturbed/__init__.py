"""Experiments that are disturbed, for `faults.py`."""
