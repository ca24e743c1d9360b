"""Changes to a model while it is converted: another vocabulary, more positions, a mean of models.

Owns: what a conversion is asked to change (``request``), from which old rows each row of a new
vocabulary is made (``row_sources``, with ``entries``), and the tensors that follow (``vocabulary``,
``positions``, ``average``).
May import: convert's model and formats, checkpoint, model, data, config, common.
Start reading: ``request.py``, then ``row_sources.py``.
"""
