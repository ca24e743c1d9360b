"""Tasks of one file each: ``some_name.py`` is the task "some-name", and its ``REGISTERED`` is the class.

Owns: tasks that need no other file; a file put here is found by its place.
May import: tasks, model, parallel, data, config, common.
Start reading: docs/extending.md, the example of a task.
"""
