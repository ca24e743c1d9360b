"""Vectors of texts: ``launch/embed.py``.

Owns: reading texts, computing one vector of each, writing them as one array.
May import: predict, finetune, tasks, convert, model, parallel, data, config, common.
Start reading: ``command.py``.
"""
