"""LAMB, parameter groups and schedules; collectives come in as callables."""
