"""Tables of templates per language, as TOML; docs/reference/text.md describes their format."""
