#!/usr/bin/env bash
# Pretrains ResNet-101 on ML-Images: the paper's recipe, every value visible.
#
#   example/train.sh                                   # one process
#   NP=8 example/train_distributed.sh example/train.sh # the same on 8 GPUs
#
# A step is always 4,096 images: --global_batch is split among the workers, and each worker's share
# into micro-batches of --batch_size. The learning rates below are for this batch size.
# 17,609,752 images make 4,299 steps per epoch; the paper's 60 epochs make 257,958 steps. The
# released script has --max_iter=440000. Flags given to this script override those below. Paths are
# relative to the working folder.
#
# Expect: a log line every 100 steps; checkpoints in out/pretrain/. The same command resumes.
# --val_dir=data/val/ --eval_interval=4400 evaluates about once per epoch.
# Published result of these weights, finetuned: 78.8 % top-1 and 94.5 % top-5 on ImageNet at 224
# (not reached here: no GPU, no ML-Images).
set -euo pipefail

# shellcheck source=example/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
answer_help train.py "$@"
prepare_environment

# The released dictionary, if present: its names and hierarchy are saved with the checkpoints.
dictionary="$PROJECT_ROOT/data/dictionary_and_semantic_hierarchy.txt"
[[ -e "$dictionary" ]] || dictionary=""

# shellcheck disable=SC2086 # LAUNCH may be several words, e.g. from train_distributed.sh
exec ${LAUNCH:-python} "$PROJECT_ROOT/train.py" \
  --data_dir=./data/train/ \
  --model_dir=./out/pretrain/ \
  --log_dir=./out/pretrain/log/ \
  --class_num=11166 \
  --dictionary="$dictionary" \
  --resnet_size=101 \
  --image_size=224 \
  --data_format=NHWC \
  --precision=float32 \
  --batch_norm_decay=0.997 \
  --batch_norm_epsilon=1e-5 \
  --batch_size=32 \
  --global_batch=4096 \
  --area_min=0.7 \
  --area_max=1.0 \
  --mask_thres=0.7 \
  --neg_select=0.1 \
  --loss_statistics=global \
  --optimizer=mom \
  --opt_momentum=0.9 \
  --weight_decay=1e-4 \
  --warmup=35200 \
  --lr_warmup=0.01 \
  --lr_warmup_decay_step=4400 \
  --lr_warmup_decay_factor=1.297 \
  --lr=0.08 \
  --lr_decay_step=110000 \
  --lr_decay_factor=0.1 \
  --max_iter=257958 \
  --snapshot=4400 \
  --max_to_keep=20 \
  --log_interval=100 \
  --num_preprocess_threads=8 \
  --random_seed=1234 \
  "$@"
