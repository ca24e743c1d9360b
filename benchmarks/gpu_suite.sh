#!/usr/bin/env bash
# All benchmarks of one GPU in less than ten minutes; JSON and one Markdown file in OUTPUT.
#
#   bash benchmarks/gpu_suite.sh SHARDS OUTPUT [--squad TRAIN] [--small] [--dry-run]
#
# See benchmarks/gpu_suite.py for the parts; PYTHON names another interpreter than `python`.
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python}" benchmarks/gpu_suite.py "$@"
