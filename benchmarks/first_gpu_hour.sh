#!/usr/bin/env bash
# The first hour on a GPU, in calls of less than ten minutes each; the most valuable part first.
#
#   bash benchmarks/first_gpu_hour.sh --list
#   bash benchmarks/first_gpu_hour.sh PART SHARDS OUTPUT [--small] [--write-golden] [--dry-run]
#
# On a machine without a network, fill .wheels/ elsewhere with `bash benchmarks/hour/wheels.sh` and bring it
# along: what is missing is installed from there. PYTHON names another interpreter than `python`.
set -euo pipefail
python=${PYTHON:-$(command -v python || command -v python3)}
cd "$(dirname "$0")/.."
needs='import importlib.util as i, sys; sys.exit(not all(map(i.find_spec, ("deepspeed", "pydantic", "pytest", "hypothesis"))))'
if ls .wheels/*.whl >/dev/null 2>&1 && ! "$python" -c "$needs"; then
  "$python" -m pip install --quiet --no-index --no-deps .wheels/*.whl
fi
exec "$python" benchmarks/hour/command.py "$@"
