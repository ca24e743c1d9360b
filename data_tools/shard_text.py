"""The command shard_wiki.py under the name of what it reads: all text, not only wikis."""

import sys
from functools import partial
from importlib import import_module

from megabert.common.log import run_command

if __name__ == "__main__":
    # a script's own folder is the first place in which Python looks for modules
    main = import_module("shard_wiki").main
    sys.exit(run_command(partial(main, program="shard_text.py")))
