#!/usr/bin/env bash
# Finetunes a pretrained ResNet-101 on ImageNet (ILSVRC2012), one label per image.
#
#   example/finetune.sh --pretrain_ckpt=checkpoints/ckpt-resnet101-mlimages
#   example/finetune.sh --val_dir=data/ilsvrc2012/val/ --eval_interval=5000
#
# example/imagenet_records.sh makes the records.
# The released recipe: 256 images per step (4 GPUs x 64), learning rate 0.1, divided by 10 every
# 150,000 steps, 600,000 steps. All layers but the logits are restored. Stages 2 and 3 and the
# layers after them are trained; --FixBlock2=False trains all of the network. Flags given to this
# script override those below. Paths are relative to the working folder.
#
# Published result: 78.8 % top-1 and 94.5 % top-5 at 224 (not reached here: no GPU, no ImageNet).
set -euo pipefail

# shellcheck source=example/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
answer_help finetune.py "$@"
prepare_environment

# shellcheck disable=SC2086 # LAUNCH may be several words, e.g. from train_distributed.sh
exec ${LAUNCH:-python} "$PROJECT_ROOT/finetune.py" \
  --data_dir=./data/ilsvrc2012/train/ \
  --pretrain_ckpt="$PROJECT_ROOT/checkpoints/ckpt-resnet101-mlimages" \
  --model_dir=./out/finetune/ \
  --log_dir=./out/finetune/log/ \
  --loss=softmax \
  --class_num=1000 \
  --dictionary="$PROJECT_ROOT/data/imagenet2012_dictionary.txt" \
  --resnet_size=101 \
  --image_size=224 \
  --data_format=NHWC \
  --precision=float32 \
  --batch_norm_decay=0.997 \
  --batch_norm_epsilon=1e-5 \
  --batch_size=64 \
  --global_batch=256 \
  --area_min=0.05 \
  --area_max=1.0 \
  --FixBlock2=True \
  --optimizer=mom \
  --opt_momentum=0.9 \
  --weight_decay=1e-4 \
  --bn_decay_fraction=0.1 \
  --lr_policy=staircase \
  --lr=0.1 \
  --lr_decay_step=150000 \
  --lr_decay_factor=0.1 \
  --max_iter=600000 \
  --snapshot=5000 \
  --max_to_keep=20 \
  --log_interval=100 \
  --num_preprocess_threads=8 \
  --random_seed=1234 \
  "$@"
