#!/usr/bin/env bash
# Fetches into .wheels/ what a GPU machine without a network needs for benchmarks/first_gpu_hour.sh, besides
# Python, torch, triton, transformers, tokenizers, sentencepiece, h5py, tensorboard and numpy, which it is
# taken to have.
#
#   bash benchmarks/hour/wheels.sh [PACKAGE...]        # more packages, such as jieba
#
# Environment: FOR_PYTHON, the version of that machine's Python (3.12); DEEPSPEED, DeepSpeed's (that of
# constraints.txt). first_gpu_hour.sh installs the wheels.
set -euo pipefail
cd "$(dirname "$0")/../.."
for_python=${FOR_PYTHON:-3.12}
deepspeed=${DEEPSPEED:-$(sed -n 's/^deepspeed==//p' constraints.txt)}
pip="${PYTHON:-python3} -m pip --disable-pip-version-check"
alone=(hjson msgpack py-cpuinfo einops ninja psutil PyYAML google-crc32c sentencex mwparserfromhell)
with_their_needs=(pydantic rich pytest hypothesis)
mkdir -p .wheels
# DeepSpeed is published as source; without its operators it builds to one wheel for every platform
if ! compgen -G ".wheels/deepspeed-$deepspeed*.whl" >/dev/null; then
  DS_BUILD_OPS=0 $pip wheel --quiet --no-deps --wheel-dir .wheels "deepspeed==$deepspeed"
fi
fetch="$pip download --quiet --only-binary=:all: --python-version $for_python --dest .wheels"
$fetch --no-deps "${alone[@]}" "$@"
$fetch "${with_their_needs[@]}"
du -sh .wheels
