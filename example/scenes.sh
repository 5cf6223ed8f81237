#!/usr/bin/env bash
# Detection and segmentation on real pixels with exact ground truth, on two cores: handwritten
# digits, cut out and pasted onto photographs -> TFRecords -> a small network that classifies the
# digits -> Faster R-CNN and DeepLabv3 from its weights -> their results on held-out scenes.
#
#   ./example/scenes.sh                      both tasks; writes to scenes/
#   TASKS=detect ./example/scenes.sh         only detection (or segment: only segmentation)
#   OUT=/tmp/try ./example/scenes.sh --random_seed=2     options go to the three training scripts
#
# The same steps with the paper's network and data: example/detect_voc2007.sh, segment_voc2012.sh.
# The same command resumes a stopped run and skips what is done.
#
# Expect, on scenes with writers and parts of photographs not seen in training: a box AP of at least
# 0.8 (IoU 0.5) and an mIoU of at least 0.8; three seeds reached 0.90 to 0.94 and 0.82 to 0.83.
# docs/transfer.md compares them with training from scratch.

set -euo pipefail
# shellcheck source=example/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
answer_help "" "$@"
prepare_environment demo

OUT="${OUT:-scenes}"
TASKS="${TASKS:-detect segment}"
CLASSES=5
SIDE=160
HELD_OUT=100
step() { printf '\n== %s\n' "$*"; }
SECONDS=0

step "the data set: digits of scikit-learn on its photographs, with boxes and masks"
data="$OUT/data"
[[ -e "$data/crops/dictionary.txt" ]] || python "$PROJECT_ROOT/data/scenes.py" --output "$data" \
  --classes "$CLASSES" --side "$SIDE" --scenes 600 "$HELD_OUT" --crops 3000 400

step "TFRecords"
for part in train val; do
  python "$PROJECT_ROOT/data/tfrecord.py" --indexs "$data/crops/${part}_list.txt" \
    --images "$data/crops" --tfrecords "$OUT/crops/$part" --num_class "$CLASSES"
  python "$PROJECT_ROOT/data/dense_records.py" --voc "$data" --split "$part" \
    --classes "$data/objects.txt" --tfrecords "$OUT/boxes/$part"
  python "$PROJECT_ROOT/data/dense_records.py" --voc "$data" --split "$part" --tasks masks \
    --classes "$data/regions.txt" --tfrecords "$OUT/masks/$part"
done

# Digits must not be mirrored. Batch norm's momentum of 0.997 is for long runs.
shared=(
  --resnet_size=14
  --width=16
  --flip_probability=0
  --lr_policy=cosine
  --log_interval=50
  --max_to_keep=2
)

step "pretraining: which digit is on the image"
python "$PROJECT_ROOT/train.py" \
  "${shared[@]}" \
  --data_dir="$OUT/crops/train" \
  --val_dir="$OUT/crops/val" \
  --model_dir="$OUT/pretrained" \
  --log_dir="$OUT/log/pretrained" \
  --loss=softmax \
  --class_num="$CLASSES" \
  --dictionary="$data/crops/dictionary.txt" \
  --image_size=64 \
  --batch_size=32 \
  --batch_norm_decay=0.9 \
  --area_min=0.8 \
  --rotate_degrees=10 \
  --color_probability=0.5 \
  --hue=0.1 \
  --lr=0.03 \
  --warmup=50 \
  --max_iter=500 \
  --eval_interval=250 \
  --snapshot=250 \
  "$@"

results=()
if [[ " $TASKS " == *" detect "* ]]; then
  step "detection: Faster R-CNN"
  # Anchors of 32 to 72 pixels, like the objects, and fewer proposals and samples than on VOC. Batch
  # norm keeps the pretrained statistics.
  python "$PROJECT_ROOT/detect.py" \
    "${shared[@]}" \
    --mode=train \
    --data_dir="$OUT/boxes/train" \
    --val_dir="$OUT/boxes/val" \
    --pretrain_ckpt="$OUT/pretrained" \
    --model_dir="$OUT/detector" \
    --log_dir="$OUT/log/detector" \
    --min_side="$SIDE" \
    --max_side="$SIDE" \
    --anchor_scales=2,3,4.5 \
    --anchor_ratios=1,1.5 \
    --rpn_channels=64 \
    --rpn_samples=64 \
    --proposals=100 \
    --regions=16 \
    --test_proposals=50 \
    --trainable='*' \
    --batch_size=4 \
    --lr=0.03 \
    --gradient_clip=5 \
    --warmup=100 \
    --max_iter=500 \
    --eval_interval=250 \
    --snapshot=250 \
    "$@"
  python "$PROJECT_ROOT/detect.py" --model_dir="$OUT/detector" --test_proposals=50 \
    --images="$data/JPEGImages/val_*.jpg" --result="$OUT/detections.json" \
    --draw_dir="$OUT/drawn_boxes"
  results+=("detections.json       the objects of held-out scenes, in COCO's form")
  results+=("drawn_boxes/          the scenes with them")
fi

if [[ " $TASKS " == *" segment "* ]]; then
  step "segmentation: DeepLabv3"
  # Dilations of 1 to 3 cover an object's surroundings; a crop's feature map has only 11 x 11 cells.
  python "$PROJECT_ROOT/segment.py" \
    "${shared[@]}" \
    --mode=train \
    --data_dir="$OUT/masks/train" \
    --val_dir="$OUT/masks/val" \
    --pretrain_ckpt="$OUT/pretrained" \
    --model_dir="$OUT/segmenter" \
    --log_dir="$OUT/log/segmenter" \
    --crop_size=$((SIDE + 1)) \
    --scale_min=0.8 \
    --scale_max=1.25 \
    --output_stride=16 \
    --aspp_filters=32 \
    --aspp_rates=1,2,3 \
    --batch_size=8 \
    --batch_norm_decay=0.9 \
    --lr=0.03 \
    --head_lr_mult=10 \
    --gradient_clip=1 \
    --warmup=20 \
    --max_iter=900 \
    --eval_interval=300 \
    --snapshot=300 \
    "$@"
  # As in DeepLab's tests: output stride 8, half that of training, and the mean over two scales.
  tested=(--model_dir="$OUT/segmenter" --output_stride=8 "--test_scales=1,1.5")
  python "$PROJECT_ROOT/segment.py" --mode=val --val_dir="$OUT/masks/val" "${tested[@]}" \
    | tee "$OUT/masks_evaluation.txt"
  python "$PROJECT_ROOT/segment.py" "${tested[@]}" \
    --images="$data/JPEGImages/val_*.jpg" --result="$OUT/masks.jsonl" \
    --masks_dir="$OUT/predicted_masks" --draw_dir="$OUT/drawn_masks"
  results+=("masks_evaluation.txt  the mIoU of held-out scenes")
  results+=("predicted_masks/      masks of held-out scenes; masks.jsonl lists them")
  results+=("drawn_masks/          the scenes with them")
fi

step "done in $((SECONDS / 60)) min $((SECONDS % 60)) s; what was made in $OUT:"
echo
printf '  %s\n' "data/                 scenes as VOC's folders, and images of single digits" \
  "crops/, boxes/, masks/  TFRecords" \
  "pretrained/, detector/, segmenter/  checkpoints" "${results[@]}" \
  "log/                  training.jsonl of each, and files for TensorBoard"
