"""Records to tables, figures and verdicts."""
