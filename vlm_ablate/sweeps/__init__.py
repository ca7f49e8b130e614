"""Sweeps: values of an experiment's fields searched for on the tune split, as runs of the same campaign. No torch here.

A sweep file names an experiment, a space over its fields and a budget. Its trials are runs: they are told apart by the
same keys, share their weights with the tables, and go wherever a launcher puts them. Optuna proposes values and decides
what is pruned; who works on a trial says a lease.
"""
