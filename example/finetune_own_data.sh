#!/usr/bin/env bash
# From one's own images to a finetuned network and its report, in one command.
#
#   example/finetune_own_data.sh --images images/                    # a subfolder per class
#   example/finetune_own_data.sh --images images/ --csv labels.csv   # image,labels (a;b;c)
#   ... -- --lr=0.01 --max_iter=2000      # after --, flags of finetune.py
#
# OUTPUT=out/own      where everything goes; the same command again resumes
# CHECKPOINT=...      a pretrained checkpoint to start from; its depth is taken too. None: scratch
# IMAGE_SIZE=224 BATCH=32 STEPS=1000
#
# Batch norm's statistics have a momentum of 0.9, because the released 0.997 is for long runs: it
# was worse at every length tried (after 300 steps top-1 0.28 against 0.38, mAP 0.127 against 0.220)
# and made early evaluations, by which the best checkpoint is chosen, misleading.
#
# Expect: OUTPUT/lists (splits and dictionary), OUTPUT/records, OUTPUT/model/best (the checkpoint
# that was best on the validation split) and OUTPUT/report (metrics on the test split).
set -euo pipefail

# shellcheck source=example/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
answer_help data/own_data.py "$@"
prepare_environment

OUTPUT="${OUTPUT:-out/own}"
IMAGE_SIZE="${IMAGE_SIZE:-224}"
BATCH="${BATCH:-32}"
STEPS="${STEPS:-1000}"
split=() images="" loss=softmax best=top_1
while (($#)) && [[ "$1" != -- ]]; do
  case "$1" in
    --images) images="${2:?--images needs a folder}" ;;
    --images=*) images="${1#*=}" ;;
    --csv | --csv=*) loss=bce best=map_macro ;;
  esac
  split+=("$1")
  shift
done
shift || true

python "$PROJECT_ROOT/data/own_data.py" "${split[@]}" --output "$OUTPUT/lists"
classes="$(wc -l < "$OUTPUT/lists/dictionary.txt")"
parts=(train)
for part in val test; do # of very few images, there may be none for them
  [[ ! -s "$OUTPUT/lists/${part}_list.txt" ]] || parts+=("$part")
done
for part in "${parts[@]}"; do
  python "$PROJECT_ROOT/data/tfrecord.py" --indexs "$OUTPUT/lists/${part}_list.txt" \
    --tfrecords "$OUTPUT/records/$part" --images "$images" --num_class "$classes"
done

network=(--class_num="$classes" --image_size="$IMAGE_SIZE" --batch_size="$BATCH" --loss="$loss")
if [[ -n "${CHECKPOINT:-}" ]]; then
  network+=(--pretrain_ckpt="$CHECKPOINT")
fi
model="$OUTPUT/model"
if [[ " ${parts[*]} " == *" val "* ]]; then
  network+=(--val_dir="$OUTPUT/records/val" --eval_interval=100 --best_metric="$best")
  model+=/best
fi
# shellcheck disable=SC2086 # LAUNCH is several words, from train_distributed.sh and its like
${LAUNCH:-python} "$PROJECT_ROOT/finetune.py" \
  --data_dir="$OUTPUT/records/train" \
  --model_dir="$OUTPUT/model" \
  --log_dir="$OUTPUT/model/log" \
  --dictionary="$OUTPUT/lists/dictionary.txt" \
  "${network[@]}" \
  --lr_policy=cosine \
  --lr=0.02 \
  --warmup=$((STEPS / 10)) \
  --batch_norm_decay=0.9 \
  --max_iter="$STEPS" \
  --snapshot=100 \
  --max_to_keep=3 \
  "$@"
if [[ " ${parts[*]} " != *" test "* ]]; then
  echo "no report: no image is held out for the test; the network is in $model"
  exit
fi
# shellcheck disable=SC2086 # LAUNCH is several words
${LAUNCH:-python} "$PROJECT_ROOT/evaluate.py" \
  --data_dir="$OUTPUT/records/test" \
  --model_dir="$model" \
  --result="$OUTPUT/report"
