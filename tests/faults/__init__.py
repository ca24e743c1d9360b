"""Faults that are planted on purpose: what the user sees, the exit status, and what is kept."""
