"""megabert: from a Wikipedia dump to a SQuAD score, on one CPU or a thousand GPUs.

Start with docs/design/architecture.md; each package's docstring says what it owns and where to start reading.
"""

__version__ = "0.1.0"
