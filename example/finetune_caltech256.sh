#!/usr/bin/env bash
# Finetunes on Caltech-256: from the unpacked data set to the mean class recall, with mean and
# standard deviation over three random splits.
#
#   example/finetune_caltech256.sh                   # images in 256_ObjectCategories/
#   TRAIN=30 example/finetune_caltech256.sh --lr=0.02     # other flags of finetune.py
#   LINEAR=1 example/finetune_caltech256.sh          # a linear classifier on features: minutes
#
# The data set: https://data.caltech.edu/records/nyy15-4j048 (256_ObjectCategories.tar). Any folder
# of class folders NNN.name will do; NNN.clutter is left out. A split has TRAIN training images per
# class; all others are for testing. The same command resumes a killed run. Finished work is kept,
# so other settings need another OUTPUT.
#
# IMAGES=256_ObjectCategories
# TRAIN=60            training images per class; 15, 30 and 45 are also common
# SPLITS=3
# CHECKPOINT=...      to start from (default: the released ResNet-101); empty: train from scratch
# OUTPUT=out/caltech256_$TRAIN
# IMAGE_SIZE=224 BATCH=32 EPOCHS=30
# LINEAR=1 C=10       logistic regression (scikit-learn) on the features of CHECKPOINT, scaled to
#                     length 1; C is the inverse of its weight decay
#
# Expect: OUTPUT/results.json, and for each split the lists, records, network and report. 256
# classes, 30,607 images minus 827 of clutter; 15,360 training images with TRAIN=60. Not run on
# Caltech-256 here.
set -euo pipefail

# shellcheck source=example/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
answer_help finetune.py "$@"
LINEAR="${LINEAR:-0}"
if [[ "$LINEAR" == 1 ]]; then
  prepare_environment demo
else
  prepare_environment
fi

IMAGES="${IMAGES:-256_ObjectCategories}"
TRAIN="${TRAIN:-60}"
SPLITS="${SPLITS:-3}"
CHECKPOINT="${CHECKPOINT-$PROJECT_ROOT/checkpoints/ckpt-resnet101-mlimages}"
OUTPUT="${OUTPUT:-out/caltech256_$TRAIN}"
IMAGE_SIZE="${IMAGE_SIZE:-224}"
BATCH="${BATCH:-32}"
EPOCHS="${EPOCHS:-30}"
protocol="$PROJECT_ROOT/data/caltech256.py"

python "$protocol" split --images "$IMAGES" --output "$OUTPUT" --train "$TRAIN" --splits "$SPLITS"

if [[ "$LINEAR" == 1 ]]; then
  [[ -e "$OUTPUT/features.npz" ]] || python "$PROJECT_ROOT/extract_feature.py" \
    --pretrain_ckpt="$CHECKPOINT" \
    --images="$OUTPUT/all_list.txt" \
    --images_dir="$IMAGES" \
    --l2_normalize \
    --result="$OUTPUT/features.npz"
  python "$protocol" linear --features "$OUTPUT/features.npz" --output "$OUTPUT" --C "${C:-10}"
  SPLITS=0
fi

for ((number = 1; number <= SPLITS; number++)); do
  split="$OUTPUT/split$number"
  if [[ -e "$split/report/metrics.json" ]]; then
    echo "== split $number is done: $split/report"
    continue
  fi
  echo "== split $number"
  classes="$(wc -l < "$split/dictionary.txt")"
  steps=$((EPOCHS * classes * TRAIN / BATCH))
  python "$PROJECT_ROOT/data/tfrecord.py" --indexs "$split/train_list.txt" \
    --tfrecords "$split/records" --images "$IMAGES" --num_class "$classes"
  # The seeds differ, too, so the deviation includes that of training.
  # shellcheck disable=SC2086 # LAUNCH may be several words, e.g. from train_distributed.sh
  ${LAUNCH:-python} "$PROJECT_ROOT/finetune.py" \
    --data_dir="$split/records" \
    --model_dir="$split/model" \
    --log_dir="$split/model/log" \
    ${CHECKPOINT:+"--pretrain_ckpt=$CHECKPOINT"} \
    --loss=softmax \
    --class_num="$classes" \
    --dictionary="$split/dictionary.txt" \
    --image_size="$IMAGE_SIZE" \
    --batch_size="$BATCH" \
    --area_min=0.25 \
    --batch_norm_decay=0.99 \
    --lr_policy=cosine \
    --lr=0.01 \
    --warmup=$((steps / 20)) \
    --max_iter="$steps" \
    --snapshot=500 \
    --max_to_keep=2 \
    --random_seed="$number" \
    "$@"
  # shellcheck disable=SC2086 # LAUNCH may be several words
  ${LAUNCH:-python} "$PROJECT_ROOT/evaluate.py" \
    --pretrain_ckpt="$split/model" \
    --images="$split/test_list.txt" \
    --images_dir="$IMAGES" \
    --result="$split/report"
done

python "$protocol" table --output "$OUTPUT"
