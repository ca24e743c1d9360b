"""Tasks of one file each: the file's name is the task's, and its ``REGISTERED`` is the class.

Owns: tasks that need no other file; a file put here is found by its place.
May import: tasks, model, parallel, data, config, common.
Start reading: the example of a task in docs/extending.md.
"""
