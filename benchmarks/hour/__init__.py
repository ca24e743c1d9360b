"""The first hour on a GPU, in calls of less than ten minutes (benchmarks/first_gpu_hour.sh).

Start reading: ``parts.py`` lists what is asked and which command answers it; ``command.py`` runs a part.
"""
