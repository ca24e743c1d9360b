"""megabert: from a Wikipedia dump to a SQuAD score, on one CPU or a thousand GPUs."""

__version__ = "0.1.0"
