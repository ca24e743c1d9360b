#!/usr/bin/env bash
# The whole pipeline on a generated sample: dump -> shards -> pretraining -> conversion -> SQuAD score.
#
#   bash launch/wiki_to_squad.sh            (or `make demo`)
#   WORK=/some/folder bash launch/wiki_to_squad.sh
#
# Every stage is one command that writes one folder and reads only folders of stages before it. A
# stage whose result exists is skipped, so a stopped run continues; remove a folder to
# repeat its stage. The first stage that fails ends the script with that stage's exit status.
# It ends with the scores, the folder of the result, and a command to type next.
# No GPU and no network are needed.
set -euo pipefail
if (($#)); then # no arguments are known: print the comment above
  sed -n '2,/^set/{s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}"
  [[ $1 == -h || $1 == --help ]] && exit 0 || exit 2
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# --- settings -----------------------------------------------------------------------------------
WORK=${WORK:-runs/demo}         # everything is written below this folder
RANKS=2                         # processes of a training run
ARTICLES=2000                   # of the generated encyclopedia
VOCABULARY=1200                 # WordPiece entries
MODEL=(--model nezha-mini --num-hidden-layers 2 --hidden-size 128 --num-attention-heads 2 --intermediate-size 512
  --max-position-embeddings 128 --type-vocab-size 1 --initializer-range 0.06 --dropout 0)
LOCAL_HEADS=0.5                 # half of the heads begin with attention to a neighbour
BATCH=(--global-batch-size 64 --micro-batch-size 32)
STEPS_1=900 LENGTH_1=48         # phase 1: short sequences teach which words go together
STEPS_2=100 LENGTH_2=96         # phase 2: as long as question and paragraph
PRETRAIN=(--optimizer muon --beta2 0.98 --schedule linear --warmup-fraction 0.1 --zero-stage 1
  --masking whole-word --mask-fraction 0.3 --eval-mask-fraction 0.2 --sentence-task none --short-sequence-fraction 0
  --init-local-heads "$LOCAL_HEADS" --eval-interval 250 --save-interval 500 --log-interval 50)
FINETUNE=(--task squad --max-length 96 --batch-size 32 --epochs 10 --lr 5e-4 --dropout 0 --eval-interval end
  --seed 0 --seeds 3)           # 600 questions: scores of three seeds differ by several points

# --- how to run a stage ---------------------------------------------------------------------------
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}   # one thread per rank: two ranks fill two cores

stage() { # stage TITLE RESULT COMMAND...: run COMMAND unless the file RESULT exists (of a run: and is finished)
  local title=$1 result=$2
  shift 2
  if [[ -e $result ]] && ! grep -qs '"finished": false' "$result"; then
    printf '== %s: exists already (%s)\n' "$title" "$result"
    return
  fi
  printf '\n== %s\n' "$title"
  local started=$SECONDS
  "$@"
  [[ -e $result ]] || { printf 'error: %s did not write %s\n' "$title" "$result" >&2; exit 1; }
  printf '== %s: done in %d s\n' "$title" $((SECONDS - started))
}

ranks() { # ranks SCRIPT ARGUMENTS...: the script on RANKS processes
  deepspeed --num_gpus "$RANKS" --master_port "$((20000 + $$ % 20000))" "$@"
}

# --- the pipeline -----------------------------------------------------------------------------------
stage "1. a generated encyclopedia and questions on it" "$WORK/wiki/dev.json" \
  python data_tools/make_sample_wiki.py --output "$WORK/wiki" --articles "$ARTICLES"

stage "2. a vocabulary from its text" "$WORK/tokenizer/vocab.txt" \
  python data_tools/train_tokenizer.py --input "$WORK/wiki/dump.xml.bz2" \
  --type wordpiece --vocab-size "$VOCABULARY" --output "$WORK/tokenizer"

stage "3. dump to shards" "$WORK/shards/manifest.json" \
  python data_tools/shard_wiki.py --input "$WORK/wiki/dump.xml.bz2" \
  --tokenizer "$WORK/tokenizer" --output "$WORK/shards" --eval-fraction 0.02 --resume

stage "4. pretraining, phase 1" "$WORK/phase1/results.json" \
  ranks launch/pretrain.py "${MODEL[@]}" "${BATCH[@]}" "${PRETRAIN[@]}" --phase 1 \
  --data "$WORK/shards" --seq-length "$LENGTH_1" --steps "$STEPS_1" --lr 5e-3 \
  --output "$WORK/phase1" --resume auto

stage "5. pretraining, phase 2" "$WORK/phase2/results.json" \
  ranks launch/pretrain.py "${MODEL[@]}" "${BATCH[@]}" "${PRETRAIN[@]}" --phase 2 \
  --data "$WORK/shards" --seq-length "$LENGTH_2" --steps "$STEPS_2" --lr 1e-3 \
  --init-from "$WORK/phase1" --output "$WORK/phase2" \
  --resume auto

stage "6. conversion to Hugging Face, logits compared" "$WORK/huggingface/config.json" \
  python launch/convert.py --from megabert --input "$WORK/phase2" --to huggingface --output "$WORK/huggingface"

stage "7. fine-tuning from the pretrained weights, three seeds" "$WORK/squad/results.json" \
  ranks launch/finetune.py "${FINETUNE[@]}" --checkpoint "$WORK/huggingface" \
  --train "$WORK/wiki/train.json" --eval "$WORK/wiki/dev.json" --output "$WORK/squad" --resume auto

stage "8. the same fine-tuning from random weights" "$WORK/squad-scratch/results.json" \
  ranks launch/finetune.py "${FINETUNE[@]}" --random-init on --init-local-heads "$LOCAL_HEADS" --checkpoint "$WORK/huggingface" \
  --train "$WORK/wiki/train.json" --eval "$WORK/wiki/dev.json" --output "$WORK/squad-scratch" --resume auto

# --- the scores -----------------------------------------------------------------------------------
python - "$WORK" <<'PYTHON'
import json
import os
import shlex
import sys
from pathlib import Path

work = Path(sys.argv[1])
print(f"\n{'mean ± deviation of seeds':<28}{'EM':>12}{'F1':>12}")
for title, run in (("from random weights", "squad-scratch"), ("with pretraining", "squad")):
    results = json.loads((work / run / "results.json").read_text(encoding="utf-8"))
    scores = (results["scores"][name] for name in ("exact_match", "f1"))
    print(f"{title:<28}" + "".join(f"{s['mean']:>6.1f} ± {s['std']:<3.1f}" for s in scores))
best = work / "squad" / results["best_run"]

asked = json.loads((work / "wiki" / "dev.json").read_text(encoding="utf-8"))["data"][0]["paragraphs"][0]
inside = Path(sys.executable).is_relative_to(Path.cwd())
command = [os.path.relpath(sys.executable) if inside else sys.executable, "launch/predict.py"]
command += ["--checkpoint", str(best)]
command += ["--question", asked["qas"][0]["question"], "--context", asked["context"]]
print(f"\nresult   {work}: {best.relative_to(work)}/ answers questions, huggingface/ is the pretrained model")
print(f"next     {shlex.join(command)}")
PYTHON
