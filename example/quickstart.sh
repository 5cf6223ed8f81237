#!/usr/bin/env bash
# The full pipeline on a small real data set, in a few minutes on two cores: handwritten digits
# with a small class hierarchy -> image lists -> TFRecords -> pretraining with the multi-label
# loss -> predictions and features of held-out images -> curves and a contact sheet.
#
#   ./example/quickstart.sh                     writes to quickstart/
#   OUT=/tmp/try ./example/quickstart.sh        writes to another folder
#   ./example/quickstart.sh --max_iter=200      options go to train.py
#
# All steps are the project's ordinary scripts and flags. The same command resumes a stopped run and
# skips what is done.
#
# Expect: a held-out mAP of at least 0.95 over all 14 classes (writers not seen in training).

set -euo pipefail
# shellcheck source=example/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
answer_help train.py "$@"
prepare_environment demo

OUT="${OUT:-quickstart}"
CLASSES=14
step() { printf '\n== %s\n' "$*"; }
SECONDS=0

step "1/5 the data set: scikit-learn's 1,797 handwritten digits, held out by writer"
[[ -e "$OUT/digits/val_im_list.txt" ]] \
  || python "$PROJECT_ROOT/data/digits.py" --output "$OUT/digits"

step "2/5 image lists to TFRecords with sparse labels"
for part in train val; do
  python "$PROJECT_ROOT/data/tfrecord.py" \
    --indexs "$OUT/digits/${part}_im_list.txt" --images "$OUT/digits" \
    --tfrecords "$OUT/$part" --num_class "$CLASSES" --shard_size 256
done

step "3/5 pretraining with the multi-label loss: a small network, 32 x 32 pixels"
# Digits must not be mirrored or rotated much, and have no colors. Batch norm's momentum of 0.997 is
# for long runs. Without warm-up, the first steps can ruin the weights for good. Small batches learn
# better here, because in large ones every class is always positive.
python "$PROJECT_ROOT/train.py" \
  --data_dir="$OUT/train" \
  --val_dir="$OUT/val" \
  --model_dir="$OUT/checkpoint" \
  --log_dir="$OUT/log" \
  --class_num="$CLASSES" \
  --dictionary="$OUT/digits/dictionary_and_semantic_hierarchy.txt" \
  --resnet_size=14 \
  --width=32 \
  --image_size=32 \
  --batch_size=16 \
  --area_min=0.8 \
  --flip_probability=0 \
  --rotate_probability=0.5 \
  --rotate_degrees=10 \
  --color_probability=0 \
  --brightness=0 \
  --hue=0 \
  --saturation_min=1 \
  --saturation_max=1 \
  --contrast_min=0.7 \
  --contrast_max=1.3 \
  --lr_policy=cosine \
  --lr=0.02 \
  --warmup=100 \
  --batch_norm_decay=0.9 \
  --max_iter=1200 \
  --eval_interval=100 \
  --log_interval=50 \
  --snapshot=400 \
  --max_to_keep=3 \
  "$@"
curves="$(python "$PROJECT_ROOT/data/plot_training.py" \
  --log_dir "$OUT/log" --output "$OUT/curves.png")"
echo "$curves"

step "4/5 predictions for the held-out images"
# The checkpoint stores the class names, their hierarchy and the label mode (multi-label).
# The loss weights positive labels 12 times, so at even odds the probability is 12/13 = 0.92, not
# 0.5; --probabilities=corrected undoes this, and evaluate.py --calibrate does better.
python "$PROJECT_ROOT/image_classification.py" --model_dir="$OUT/checkpoint" \
  --images="$OUT/digits/val_im_list.txt" \
  --threshold=0.92 --top_k_pred=3 \
  --result="$OUT/label_pred.txt" --page="$OUT/predictions.png" --page_images=48

step "5/5 features of the held-out images"
python "$PROJECT_ROOT/extract_feature.py" --pretrain_ckpt="$OUT/checkpoint" \
  --images="$OUT/digits/val_im_list.txt" --result="$OUT/features.npz"

shown="$(dirname "$0")"
cat << TABLE

== done in $((SECONDS / 60)) min $((SECONDS % 60)) s; what was made:

  $OUT/digits/             images, lists and the dictionary with the hierarchy
  $OUT/train/, val/        TFRecords with sparse labels
  $OUT/checkpoint/         checkpoints in the released format; flags, classes next to them
  $OUT/curves.png          $(grep mAP <<< "$curves")
  $OUT/predictions.png     contact sheet of held-out images
  $OUT/label_pred.txt      labels of all held-out images, in the released format
  $OUT/features.npz        their features
  $OUT/log/                for TensorBoard: $VENV/bin/tensorboard --logdir $OUT/log

What to run next:

  $shown/export.sh --help               SavedModel, ONNX, PyTorch
  $shown/finetune_own_data.sh --help    your own images, from a folder or a CSV
  $shown/train.sh --help                the paper's recipe; how to get ML-Images: README.md
TABLE
