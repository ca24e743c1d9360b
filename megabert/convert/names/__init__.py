"""One table of names a foreign format."""
