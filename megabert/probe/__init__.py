"""Probes: what every kept checkpoint of a run is worth, by small fixed tasks.

Owns: ``launch/probe.py``, from its file of tasks to table, files and plot.
May import: predict, finetune, tasks, convert, checkpoint, engine, model, parallel, data, config, common.
Start reading: ``command.py``, then ``task_file.py``.
"""
