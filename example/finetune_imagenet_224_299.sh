#!/usr/bin/env bash
# Finetunes on ImageNet at 224 pixels first and at 299 at the end, in one model folder: the recipe
# of the best published result, 80.73 % top-1 and 95.5 % top-5 at 299.
#
#   example/finetune_imagenet_224_299.sh --pretrain_ckpt=checkpoints/ckpt-resnet101-mlimages
#
# Killed anywhere, the same command continues: a phase that is done ends at once, the other resumes.
# The paper does not say where it switches; ours is after the second decay of the rate.
#
# STEPS_224=300000   step at which the network's input grows
# STEPS=600000       steps of both phases together
# BATCH_299=32       images of a micro-batch at 299, which needs 1.8 times the memory of 224
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
