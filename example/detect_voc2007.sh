#!/usr/bin/env bash
# Detection on PASCAL VOC 2007 with Faster R-CNN on the pretrained network: from the unpacked
# VOCdevkit to the average precision on its test set (docs/transfer.md).
#
#   example/detect_voc2007.sh                        # images in VOCdevkit/VOC2007
#   TRAIN=07+12 example/detect_voc2007.sh            # also trains on VOC2012's trainval
#   NP=4 example/train_distributed.sh example/detect_voc2007.sh    # an image per step and GPU
#
# The data: VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar of
# http://host.robots.ox.ac.uk/pascal/VOC/voc2007/, and VOCtrainval_11-May-2012.tar for 07+12, all
# unpacked in one folder. Flags given to this script override those below. The same command resumes
# a killed run. Paths are relative to the working folder.
#
# VOC=VOCdevkit
# TRAIN=07            or 07+12
# CHECKPOINT=...      to start from (default: the released ResNet-101)
# OUTPUT=out/detect_voc$TRAIN
#
# Prints voc07_ap, the 11-point average precision reported for VOC 2007, and voc_ap, that of the
# full curve; with --coco_metrics also COCO's. Not run on VOC here: it needs a GPU.
set -euo pipefail

# shellcheck source=example/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
answer_help detect.py "$@"

VOC="${VOC:-VOCdevkit}"
TRAIN="${TRAIN:-07}"
CHECKPOINT="${CHECKPOINT:-$PROJECT_ROOT/checkpoints/ckpt-resnet101-mlimages}"
OUTPUT="${OUTPUT:-out/detect_voc$TRAIN}"
sources=(--voc "$VOC/VOC2007")
decay=50000 steps=70000
case "$TRAIN" in
  07) ;;
  07+12)
    sources+=(--voc "$VOC/VOC2012")
    decay=80000 steps=110000
    ;;
  *)
    echo "error: TRAIN=$TRAIN: use 07 or 07+12" >&2
    exit 1
    ;;
esac
prepare_environment

records="$PROJECT_ROOT/data/dense_records.py"
python "$records" "${sources[@]}" --split trainval --tfrecords "$OUTPUT/records/train"
python "$records" --voc "$VOC/VOC2007" --split test --tfrecords "$OUTPUT/records/val"

# shellcheck disable=SC2086 # LAUNCH may be several words, e.g. from train_distributed.sh
exec ${LAUNCH:-python} "$PROJECT_ROOT/detect.py" \
  --mode=train \
  --data_dir="$OUTPUT/records/train" \
  --val_dir="$OUTPUT/records/val" \
  --pretrain_ckpt="$CHECKPOINT" \
  --model_dir="$OUTPUT/model" \
  --log_dir="$OUTPUT/model/log" \
  --resnet_size=101 \
  --min_side=600 \
  --max_side=1000 \
  --anchor_scales=8,16,32 \
  --anchor_ratios=0.5,1,2 \
  --rpn_samples=256 \
  --proposals=2000 \
  --test_proposals=300 \
  --regions=256 \
  --nms_iou=0.3 \
  --batch_size=1 \
  --freeze_batch_norm \
  --optimizer=mom \
  --opt_momentum=0.9 \
  --weight_decay=1e-4 \
  --lr_policy=staircase \
  --lr=0.001 \
  --lr_decay_step="$decay" \
  --lr_decay_factor=0.1 \
  --max_iter="$steps" \
  --snapshot=5000 \
  --max_to_keep=3 \
  --log_interval=50 \
  --random_seed=1234 \
  "$@"
