#!/usr/bin/env bash
# Finetunes a network on your own images and reports its metrics, in one command.
#
#   example/finetune_own_data.sh --images images/                    # a subfolder per class
#   example/finetune_own_data.sh --images images/ --nested           # subfolders are subclasses
#   example/finetune_own_data.sh --images images/ --csv labels.csv   # image,labels (a;b;c)
#   ... -- --lr=0.01      # flags of finetune.py go after --
#
# Options before -- go to data/own_data.py: splits, column names, and --update, which adds new
# images and continues from the last checkpoint (set a larger EPOCHS).
#
# OUTPUT=out/own      output folder; the same command resumes
# CHECKPOINT=...      pretrained checkpoint, which also sets the depth (default: train from scratch)
# EPOCHS=20           passes over the training images; or STEPS=1000
# IMAGE_SIZE=224 BATCH=32 DEPTH=101
#
# Without a GPU and a CHECKPOINT, the default network is small: DEPTH=14 IMAGE_SIZE=112.
# Batch norm's statistics average over about a thirtieth of the run, because the released momentum
# of 0.997 is for long runs. In short runs 0.9 was better at every length tried (after 300 steps
# top-1 0.38 instead of 0.28, mAP 0.220 instead of 0.127). With 0.997, early evaluations, which
# select the best checkpoint, are misleading.
#
# Expect: OUTPUT/lists (splits and dictionary), OUTPUT/records, OUTPUT/model/best (the best
# checkpoint on the validation split) and OUTPUT/report (metrics on the test split).
set -euo pipefail

# shellcheck source=example/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
answer_help data/own_data.py "$@"
prepare_environment

OUTPUT="${OUTPUT:-out/own}"
BATCH="${BATCH:-32}"
EPOCHS="${EPOCHS:-20}"
if [[ -z "${CHECKPOINT:-}${DEPTH:-}${IMAGE_SIZE:-}" ]] && ! has_gpu; then
  DEPTH=14 IMAGE_SIZE=112
  echo "== no GPU and no CHECKPOINT: a small network (DEPTH=$DEPTH IMAGE_SIZE=$IMAGE_SIZE)"
fi
IMAGE_SIZE="${IMAGE_SIZE:-224}"
split=() images="" loss=softmax best=top_1
while (($#)) && [[ "$1" != -- ]]; do
  case "$1" in
    --images) images="${2:?--images needs a folder}" ;;
    --images=*) images="${1#*=}" ;;
    --csv | --csv=* | --nested) loss=bce best=map_macro ;;
  esac
  split+=("$1")
  shift
done
shift || true

python "$PROJECT_ROOT/data/own_data.py" "${split[@]}" --output "$OUTPUT/lists" || {
  code=$?
  ((code != 2)) || echo "note: flags of finetune.py, such as --lr=0.01, go after --:" \
    "$0 ${split[*]:0:2} -- --lr=0.01" >&2
  exit "$code"
}
classes="$(grep -c '^[0-9]' "$OUTPUT/lists/dictionary.txt")"
images_of() { wc -l < "$OUTPUT/lists/$1_list.txt"; }
STEPS="${STEPS:-$(((EPOCHS * $(images_of train) + BATCH - 1) / BATCH))}"
parts=(train)
for part in val test; do # very small data sets may have none
  (($(images_of "$part") == 0)) || parts+=("$part")
done
# The folder of a list's records has its checksum in its name, because --update changes the list.
records_of() { echo "$OUTPUT/records/$1-$(cksum < "$OUTPUT/lists/$1_list.txt" | cut -d' ' -f1)"; }
for part in "${parts[@]}"; do
  records="$(records_of "$part")"
  python "$PROJECT_ROOT/data/tfrecord.py" --indexs "$OUTPUT/lists/${part}_list.txt" \
    --tfrecords "$records" --images "$images" --num_class "$classes"
  find "$OUTPUT/records" -mindepth 1 -maxdepth 1 -name "$part-*" ! -path "$records" \
    -exec rm -r {} +
done

network=(--class_num="$classes" --image_size="$IMAGE_SIZE" --batch_size="$BATCH" --loss="$loss")
[[ -z "${CHECKPOINT:-}" ]] || network+=(--pretrain_ckpt="$CHECKPOINT")
[[ -z "${DEPTH:-}" ]] || network+=(--resnet_size="$DEPTH")
model="$OUTPUT/model"
often=$((STEPS > 1000 ? STEPS / 10 : 100))
momentum="$(awk -v steps="$STEPS" 'BEGIN {
  m = 1 - 30 / steps
  print (m < 0.9) ? 0.9 : (m > 0.997) ? 0.997 : m
}')"
if [[ " ${parts[*]} " == *" val "* ]]; then
  network+=(--val_dir="$(records_of val)" --eval_interval="$often" --best_metric="$best")
  model+=/best
fi
# shellcheck disable=SC2086 # LAUNCH may be several words, e.g. from train_distributed.sh
${LAUNCH:-python} "$PROJECT_ROOT/finetune.py" \
  --data_dir="$(records_of train)" \
  --model_dir="$OUTPUT/model" \
  --log_dir="$OUTPUT/model/log" \
  --dictionary="$OUTPUT/lists/dictionary.txt" \
  "${network[@]}" \
  --lr_policy=cosine \
  --lr=0.02 \
  --warmup=$((STEPS / 10)) \
  --batch_norm_decay="$momentum" \
  --max_iter="$STEPS" \
  --snapshot="$often" \
  --max_to_keep=3 \
  "$@"
if [[ " ${parts[*]} " != *" test "* ]]; then
  echo "no report, because the test split has no images; the network is in $model"
  exit
fi
# shellcheck disable=SC2086 # LAUNCH is several words
${LAUNCH:-python} "$PROJECT_ROOT/evaluate.py" \
  --data_dir="$(records_of test)" \
  --model_dir="$model" \
  --result="$OUTPUT/report"
echo "== report: $OUTPUT/report/report.html"
