#!/usr/bin/env bash
# Converts ILSVRC2012, one folder per synset, to the TFRecords for example/finetune.sh.
#
#   IMAGENET=/data/ilsvrc2012 ./example/imagenet_records.sh   # has train/n01440764/, ..., and val/
#
# Classes are numbered in synset order, as in data/imagenet2012_dictionary.txt. The validation
# archive has all images in one folder: sort them into synset folders first.
#
# Expect: ./data/ilsvrc2012/train/ and val/ with 1,281,167 and 50,000 single-label records. The same
# command resumes.
set -euo pipefail

# shellcheck source=example/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
answer_help data/tfrecord.py "$@"
prepare_environment

for split in train val; do
  images="${IMAGENET:?set it to the folder with train/ and val/}/$split"
  python "$PROJECT_ROOT/data/own_data.py" \
    --images "$images" \
    --val_fraction 0 \
    --test_fraction 0 \
    --output "./data/ilsvrc2012/$split.lists"
  python "$PROJECT_ROOT/data/tfrecord.py" \
    --indexs "./data/ilsvrc2012/$split.lists/train_list.txt" \
    --images "$images" \
    --tfrecords "./data/ilsvrc2012/$split/" \
    --num_class 1000 \
    --kind single \
    "$@"
done
