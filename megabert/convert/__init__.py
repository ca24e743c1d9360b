"""Checkpoints in and out: one name table a foreign format, one check."""
