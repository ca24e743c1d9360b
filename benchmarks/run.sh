#!/usr/bin/env bash
# The benchmarks at a size that fits a laptop: `make bench`. Shards are made from the generated sample
# unless SHARDS names a folder of real ones.
#
#   bash benchmarks/run.sh
#   SHARDS=data/wiki WORK=runs/bench bash benchmarks/run.sh
#
# Everything is written below WORK (runs/bench).
set -euo pipefail
if [[ ${1:-} == -h || ${1:-} == --help ]]; then # print the comment above
  sed -n '2,/^set/{s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}"
  exit 0
elif (($#)); then
  echo "error: unexpected argument '$1'; SHARDS and WORK are environment variables (see $0 --help)" >&2
  exit 2
fi
cd "$(dirname "$0")/.."
work=${WORK:-runs/bench}
mkdir -p "$work"
if [ -z "${SHARDS:-}" ]; then
  SHARDS=$work/shards
  if [ ! -f "$SHARDS/manifest.json" ]; then
    rm -rf "$work/sample" "$work/tokenizer" "$SHARDS"
    python data_tools/make_sample_wiki.py --output "$work/sample" --articles 600
    python data_tools/train_tokenizer.py --input "$work/sample/dump.xml.bz2" --type wordpiece --vocab-size 1200 --output "$work/tokenizer"
    python data_tools/shard_wiki.py --input "$work/sample/dump.xml.bz2" --tokenizer "$work/tokenizer" --output "$SHARDS"
  fi
fi
echo "## Loader";  python benchmarks/loader.py "$SHARDS"
echo "## Packing"; python benchmarks/packing.py "$SHARDS" --samples 16384 --seconds 1 --model bert-tiny
if [ -d "$work/sample" ]; then
  echo "## Preparation, stage by stage"
  python benchmarks/preparation/compare.py --dump en="$work/sample/dump.xml.bz2" --vocab "$work/tokenizer/vocab.txt" --profile
fi
echo "## Encoder compared with transformers and plain torch"
python benchmarks/step.py "$SHARDS" --models bert-tiny,bert-mini --lengths 128 --precisions fp32 --micro-batch-size 8 --rounds 5 --peers transformers,plain --profile
echo "## Whole updates compared with transformers with DeepSpeed"
python benchmarks/training.py "$SHARDS" --model bert-tiny --micro-batch-size 8 --accumulation 2 --rounds 3 2>"$work/training.log"
echo "## NEZHA compared with BERT"; python benchmarks/relative_positions.py "$SHARDS" --sizes tiny --rounds 5
echo "## Compilations and jitter"; python benchmarks/jitter.py "$SHARDS" --model bert-tiny --steps 200
if [ -d "$work/sample" ]; then
  echo "## Fine-tuning compared with transformers"
  python benchmarks/finetune.py "$work/sample/train.json" --tokenizer "$SHARDS/tokenizer" --model bert-tiny --rounds 5
fi
echo "## Topologies"; python benchmarks/topologies.py --data "$SHARDS" --output "$work/topologies" --model bert-tiny
echo "## LAMB against float64"; python benchmarks/lamb_matrix.py --max-ranks 2 --steps 5 2>"$work/lamb_matrix.log"
echo "## One step of LAMB compared with others"; python benchmarks/lamb.py --models bert-mini
