"""The generated encyclopedia: an invented world, its articles as wikitext, and questions on them."""
