"""Conversion of checkpoints between formats, checked tensor by tensor and by outputs.

Owns: the list of formats (``formats``), the table of names (``name_table``), the conversion (``run``), the checks.
May import: checkpoint, engine, model, parallel, data, config, common.
Start reading: ``formats.py``, then ``run.py``.
"""
