"""The speedrun: the lowest loss of an encoder on fixed text within a fixed budget (docs/speedrun/rules.md).

Start reading: ``command.py`` has the commands, ``race.py`` runs an entry, ``score.py`` says what is measured.
"""
