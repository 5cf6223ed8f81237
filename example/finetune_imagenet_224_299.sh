#!/usr/bin/env bash
# Finetunes on ImageNet, first at 224 and then at 299 pixels, in one model folder: the recipe of the
# best published result, 80.73 % top-1 and 95.5 % top-5 at 299.
#
#   example/finetune_imagenet_224_299.sh --pretrain_ckpt=checkpoints/ckpt-resnet101-mlimages
#
# The same command resumes a killed run and skips a finished phase. The paper does not say when it
# switches; we switch at the second decay of the learning rate.
#
# STEPS_224=300000   step at which the input size changes to 299
# STEPS=600000       total steps of both phases
# BATCH_299=32       images per micro-batch at 299, which needs 1.8 times the memory of 224
set -euo pipefail

# shellcheck source=example/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
answer_help finetune.py "$@"

STEPS_224="${STEPS_224:-300000}"
STEPS="${STEPS:-600000}"
BATCH_299="${BATCH_299:-32}"
model=(--model_dir=./out/finetune_224_299/ --log_dir=./out/finetune_224_299/log/)

"$PROJECT_ROOT/example/finetune.sh" "${model[@]}" --image_size=224 "$@" --max_iter="$STEPS_224"
"$PROJECT_ROOT/example/finetune.sh" "${model[@]}" --batch_size="$BATCH_299" "$@" \
  --image_size=299 --max_iter="$STEPS"
