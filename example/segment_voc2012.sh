#!/usr/bin/env bash
# Segmentation on PASCAL VOC 2012 with DeepLabv3 on the pretrained network: from the unpacked
# VOCdevkit to the mIoU on its val set (docs/transfer.md).
#
#   example/segment_voc2012.sh                       # images in VOCdevkit/VOC2012
#   MASKS=SegmentationClassAug SPLIT=train_aug example/segment_voc2012.sh     # with SBD, 10,582
#   NP=4 example/train_distributed.sh example/segment_voc2012.sh     # 4 of the 16 crops each
#   example/segment_voc2012.sh --test_flip --test_scales=0.5,0.75,1,1.25,1.5,1.75   # once trained
#
# The data: VOCtrainval_11-May-2012.tar of http://host.robots.ox.ac.uk/pascal/VOC/voc2012/; the
# masks of SBD as SegmentationClassAug, and their list as ImageSets/Segmentation/train_aug.txt.
# Flags given to this script override those below, in training and in evaluation. The same command
# resumes a killed run. Paths are relative to the working folder. Batch norm's statistics are over
# all workers.
#
# VOC=VOCdevkit
# MASKS=SegmentationClass SPLIT=train
# CHECKPOINT=...      to start from (default: the released ResNet-101)
# OUTPUT=out/segment_voc2012_$SPLIT
#
# Prints miou at output stride 8; the last command above averages over several scales and mirrored
# images. Not run on VOC here: it needs a GPU.
set -euo pipefail

# shellcheck source=example/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
answer_help segment.py "$@"
prepare_environment

VOC="${VOC:-VOCdevkit}"
MASKS="${MASKS:-SegmentationClass}"
SPLIT="${SPLIT:-train}"
CHECKPOINT="${CHECKPOINT:-$PROJECT_ROOT/checkpoints/ckpt-resnet101-mlimages}"
OUTPUT="${OUTPUT:-out/segment_voc2012_$SPLIT}"

records=(python "$PROJECT_ROOT/data/dense_records.py" --voc "$VOC/VOC2012" --tasks masks)
"${records[@]}" --mask_folder "$MASKS" --split "$SPLIT" --tfrecords "$OUTPUT/records/train"
"${records[@]}" --split val --tfrecords "$OUTPUT/records/val"

# shellcheck disable=SC2086 # LAUNCH may be several words, e.g. from train_distributed.sh
${LAUNCH:-python} "$PROJECT_ROOT/segment.py" \
  --mode=train \
  --data_dir="$OUTPUT/records/train" \
  --pretrain_ckpt="$CHECKPOINT" \
  --model_dir="$OUTPUT/model" \
  --log_dir="$OUTPUT/model/log" \
  --resnet_size=101 \
  --output_stride=16 \
  --aspp_rates=6,12,18 \
  --crop_size=513 \
  --scale_min=0.5 \
  --scale_max=2 \
  --batch_size=16 \
  --global_batch=16 \
  --sync_batch_norm \
  --batch_norm_decay=0.9997 \
  --optimizer=mom \
  --opt_momentum=0.9 \
  --weight_decay=1e-4 \
  --lr_policy=polynomial \
  --lr=0.007 \
  --lr_power=0.9 \
  --lr_end=0 \
  --max_iter=30000 \
  --snapshot=1000 \
  --max_to_keep=3 \
  --log_interval=50 \
  --random_seed=1234 \
  "$@"
# shellcheck disable=SC2086 # LAUNCH is several words
${LAUNCH:-python} "$PROJECT_ROOT/segment.py" \
  --mode=val \
  --data_dir="$OUTPUT/records/train" \
  --val_dir="$OUTPUT/records/val" \
  --model_dir="$OUTPUT/model" \
  --output_stride=8 \
  --aspp_rates=6,12,18 \
  "$@"
