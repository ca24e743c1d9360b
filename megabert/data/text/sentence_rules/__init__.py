"""What decides where a sentence ends: word lists per language, quotations and brackets.

Owns: abbreviations.txt (the lists, and their format in its head), quotation marks and brackets.
May import: nothing of the project. No torch.
Start reading: ``words.py``.
"""
