"""Owns: sections of settings that have a file each, and the texts that their values are.

May import: common, config.
Start reading: duration.
"""
