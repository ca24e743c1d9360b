"""Pretraining: inputs, the training loop, evaluation, the run folder.

Owns: ``launch/pretrain.py``'s run from settings to ``results.json``.
May import: planner, convert, checkpoint, engine, model, parallel, optim, data, config, common.
Start reading: ``command.py``, then ``loop.py``; ``starting_model.py`` for ``--init-from``.
"""
