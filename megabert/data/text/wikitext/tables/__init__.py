"""Tables of templates, one per language, as TOML.

Owns: what is known of the templates of each wiki; docs/reference/text.md describes the format.
May import: nothing.
Start reading: common.toml.
"""
