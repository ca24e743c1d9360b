"""``python -m benchmarks.speedrun prepare|run|score|board``."""

from benchmarks.speedrun.command import main
from megabert.common.log import run_command

if __name__ == "__main__":
    run_command(main)
