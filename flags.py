"""Every command-line flag of the root scripts, each defined once, typed and bounded.

Names and defaults (spelling included) are those of the released system. New flags are listed next
to them and are off by default. Each script accepts the flags of its own groups. Only root scripts
read flags: data/common/script.py copies the values into the option dataclasses of `data` and
`models`, whose fields have the flags' names.
"""

from absl import flags, logging  # noqa: F401 - absl's logging defines log_dir

from data.common.flag_groups import GROUPS, close_groups
from data.common.flag_groups import open_group as _group
from models.architecture import BLOCKS
from models.backbones import BACKBONES, RESNET
from models.losses import LOSSES
from models.training.tracker import TRACKERS

FLAGS = flags.FLAGS

# Defaults of individual scripts, which override the ones below.
_DETECTION = {  # as tf-faster-rcnn trained on VOC 2007 (docs/transfer.md)
    "class_num": 20,
    "batch_size": 1,
    "freeze_batch_norm": True,
    "lr": 0.001,
    "lr_policy": "staircase",
    "lr_decay_step": 50000,
    "max_iter": 70000,
    "mode": "predict",
    "result": "detections.json",
}
_SEGMENTATION = {  # as DeepLabv3 in TensorFlow trained on VOC 2012 (docs/transfer.md)
    "class_num": 21,
    "batch_size": 16,
    "batch_norm_decay": 0.9997,
    "lr": 0.007,
    "lr_policy": "polynomial",
    "lr_power": 0.9,
    "max_iter": 30000,
    "mode": "predict",
    "result": "masks.jsonl",
}
_IMAGE_BATCH = {"batch_size": 32}  # larger ones are not faster on a CPU, and need more memory
DEFAULTS: dict[str, dict[str, object]] = {
    "train.py": {},
    "finetune.py": {
        "loss": "softmax",
        "lr_policy": "staircase",
        "lr_decay_step": 150000,
        "area_min": 0.05,
    },
    "evaluate.py": {
        "result": "./out/evaluation/",
        "threshold": 0.5,
        "top_k_pred": 10,
        **_IMAGE_BATCH,
    },
    "image_classification.py": {"result": "label_pred.txt", **_IMAGE_BATCH},
    "extract_feature.py": {"result": "features.txt", **_IMAGE_BATCH},
    "export.py": {},
    "detect.py": _DETECTION,
    "segment.py": _SEGMENTATION,
}

# The released code defines these but never reads them.
WITHOUT_EFFECT = {
    "with_bbox": "bounding boxes",
    "test_interval": "see --eval_interval",
    "test_iter": "an evaluation reads every record once",
    "tmp_model_dir": "checkpoints are renamed into place",
    "epoch_iter": "the number of records is read from the data",
    "drop_rate": "the network has no dropout",
    "piclist": "see --images",
    "interval": "see --log_interval",
    "start": "see data/tfrecord.py --start_index",
}

# Old names of our own flags, which still work.
ALIASES = {
    "bn_decay_share": "bn_decay_fraction",
    "body_rate": "backbone_lr_mult",
    "colour_probability": "color_probability",
    "head_rate": "head_lr_mult",
}

TRAINING = TRAIN, FINETUNE = "train.py", "finetune.py"
PREDICTION = CLASSIFY, EXTRACT = "image_classification.py", "extract_feature.py"
EVALUATE, EXPORT = "evaluate.py", "export.py"
DENSE = DETECT, SEGMENT = "detect.py", "segment.py"  # boxes or pixel masks
FITTING = *TRAINING, *DENSE
LABELING = tuple(script for script in DEFAULTS if script not in DENSE)  # whole-image labels

_group("Checkpoint", *DEFAULTS)
flags.DEFINE_string(
    "model_dir",
    "./out/checkpoint/",
    "checkpoint folder; in the inference scripts, a checkpoint or its folder",
)
flags.DEFINE_string(
    "pretrain_ckpt",
    None,
    "checkpoint that provides the initial weights; in the inference scripts, overrides --model_dir",
)

_group("Network", *DEFAULTS)
flags.DEFINE_integer("class_num", 1000, "number of classes", lower_bound=1)
_DEPTHS = ", ".join(map(str, BLOCKS))
flags.DEFINE_integer("resnet_size", 101, f"depth: {_DEPTHS}; 14 is for small data sets and tests")
flags.register_validator("resnet_size", BLOCKS.__contains__, f"must be one of {_DEPTHS}")
flags.DEFINE_float("batch_norm_epsilon", 1e-5, "added to batch norm's variance", lower_bound=0.0)

_group("Network's input", *LABELING)
flags.DEFINE_integer("image_size", 224, "side of the network's input in pixels", lower_bound=16)
flags.DEFINE_enum("data_format", "NHWC", ["NHWC", "NCHW"], "tensor layout; NCHW needs a GPU")

_group("Records", *FITTING, EVALUATE)
flags.DEFINE_string(
    "data_dir",
    "./data/train/",
    "folder (or glob) of the training TFRecords, or the parent folder of train/; may be a URL such "
    "as s3://bucket/records/",
)
flags.DEFINE_string("val_dir", None, "folder (or glob) of TFRecords for evaluation during training")
flags.DEFINE_integer("max_bad_records", 100, "stop at more unreadable records than this", 0)
flags.DEFINE_enum(
    "read_order",
    "auto",
    ["auto", "records", "blocks"],
    "read and shuffle single records or, on storage with high latency, blocks of records; auto: "
    "blocks for URLs, network file systems and spinning disks",
)
flags.DEFINE_float("block_mib", 2.0, "size of a block, which is one read, in MiB", 0.001)
flags.DEFINE_integer("readers", 8, "threads that prefetch blocks", lower_bound=1)
flags.DEFINE_string(
    "cache_dir", None, "local folder that caches what is read from URLs (default: no cache)"
)
flags.DEFINE_float("cache_gib", 100.0, "maximum size of the cache, in GiB", 0.0)

_group("Positive labels", *TRAINING, EVALUATE)
flags.DEFINE_float("positive_threshold", 0.5, "minimum confidence of a positive label", 0.0, 1.0)
flags.DEFINE_string(
    "scratch_dir", None, "folder for scores during evaluation: 4 bytes x images x classes"
)

_group("Input", *FITTING, EVALUATE, *PREDICTION)
flags.DEFINE_integer("batch_size", 512, "images per micro-batch of one process", lower_bound=1)
flags.DEFINE_integer("num_preprocess_threads", 4, "threads that decode images", lower_bound=1)
flags.DEFINE_enum(
    "precision",
    "float32",
    ["float32", "bfloat16", "float16"],
    "data type of the layers' arithmetic (processors that are slower in 16 bits use float32); "
    "variables, statistics and loss stay float32",
)

_group("Devices", *FITTING, EVALUATE, *PREDICTION)
flags.DEFINE_string("visiable_gpu", "0", "indices of the GPUs to use, comma-separated")
flags.DEFINE_integer("num_gpus", 1, "GPUs per process, always 1: start one process per GPU")
flags.register_validator(
    "num_gpus",
    lambda number: number == 1,
    "a process uses one GPU; for 4: NP=4 example/train_distributed.sh example/train.sh",
)
flags.DEFINE_integer("threads", 0, "threads per operation; 0: all cores", lower_bound=0)
flags.DEFINE_boolean("xla", False, "compile groups of operations with XLA; for GPUs")
flags.DEFINE_boolean("deterministic", False, "make runs bit-identical, at some cost in speed")
flags.DEFINE_integer("random_seed", 1234, "seed of weights, data order, augmentation and draws")

_group("Run", *FITTING)
flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "val", "predict"],
    "train; val: evaluate the latest checkpoint once; predict: only in detect.py and segment.py",
)
flags.DEFINE_boolean("restore", False, "fail if there is no checkpoint to start from")
flags.DEFINE_integer("max_iter", 1000000, "steps to train", lower_bound=1)
flags.DEFINE_float("epochs", 0.0, "epochs to train, instead of --max_iter", 0.0)
flags.DEFINE_integer("snapshot", 4400, "steps between checkpoints", lower_bound=1)
flags.DEFINE_integer("max_to_keep", 200, "number of latest checkpoints to keep", lower_bound=1)
flags.DEFINE_integer("log_interval", 10, "steps between log lines", lower_bound=1)
flags.DEFINE_integer("prof_interval", 10, "steps over which images/s is averaged", lower_bound=1)
flags.DEFINE_integer(
    "eval_interval", 0, "steps between evaluations; 0: only after the last step", lower_bound=0
)
flags.DEFINE_enum(
    "tracker",
    None,
    list(TRACKERS),
    "experiment tracker that also gets the logged metrics; mlflow (an extra) stores them in "
    "mlflow.db in --log_dir, or at MLFLOW_TRACKING_URI",
)
flags.DEFINE_string("best_metric", None, "metric that selects the checkpoint kept in best/")
flags.DEFINE_integer(
    "patience", 0, "stop after this many evaluations without improvement; 0: never", 0
)

_group("Order of records", *FITTING)
flags.DEFINE_integer("file_shuffle_buffer", 1500, "files shuffled together", lower_bound=1)
flags.DEFINE_integer("shuffle_buffer", 2048, "minimum records shuffled together", lower_bound=1)
flags.DEFINE_integer(
    "shuffle_blocks", 256, "minimum blocks shuffled together (see --read_order)", 1
)

_group("Classes of records", *TRAINING)
flags.DEFINE_float(
    "class_balance", 0.0, "0: records as they are; 1: all classes about equally often", 0.0
)
flags.DEFINE_boolean(
    "count_classes", False, "log images per class, from the manifest or by reading all labels"
)
flags.DEFINE_boolean("synthetic", False, "train on one synthetic batch, to measure compute alone")

_group("Mirrored images", *FITTING)
flags.DEFINE_float("flip_probability", 0.5, "fraction of images mirrored", 0.0, 1.0)

_group("Augmentation", *TRAINING)
flags.DEFINE_float("area_min", 0.7, "smallest crop area, as a fraction of the image", 0.0, 1.0)
flags.DEFINE_float("area_max", 1.0, "largest crop area, as a fraction of the image", 0.0, 1.0)
flags.DEFINE_float("aspect_min", 0.75, "smallest width/height of a crop", 0.0)
flags.DEFINE_float("aspect_max", 1.33, "largest width/height of a crop", 0.0)
flags.DEFINE_float("rotate_probability", 1 / 3, "fraction rotated, with color order A", 0.0, 1.0)
flags.DEFINE_float("color_probability", 1 / 3, "fraction unrotated, with color order B", 0.0, 1.0)
flags.DEFINE_float("rotate_degrees", 45.0, "largest rotation angle, in degrees", 0.0, 180.0)
flags.DEFINE_float("brightness", 32 / 255, "largest change of brightness in [0, 1]", 0.0, 1.0)
flags.DEFINE_float("saturation_min", 0.5, "smallest saturation factor", 0.0)
flags.DEFINE_float("saturation_max", 1.5, "largest saturation factor", 0.0)
flags.DEFINE_float("hue", 0.2, "largest change of hue, in turns", 0.0, 0.5)
flags.DEFINE_float("contrast_min", 0.5, "smallest contrast factor", 0.0)
flags.DEFINE_float("contrast_max", 1.5, "largest contrast factor", 0.0)
flags.DEFINE_integer("randaugment_layers", 0, "RandAugment operations per image; 0: none", 0)
flags.DEFINE_float("randaugment_magnitude", 9.0, "magnitude of RandAugment", 0.0, 10.0)
flags.DEFINE_float("mixup_alpha", 0.0, "alpha of mixup's Beta distribution; 0: no mixup", 0.0)

_group("Kind of network", *TRAINING)
flags.DEFINE_enum("backbone", RESNET, list(BACKBONES), "network architecture")

_group("Training of the network", *FITTING)
flags.DEFINE_integer("width", 64, "filters of the stem; 64 in all released sizes", lower_bound=1)
flags.DEFINE_float("batch_norm_decay", 0.997, "momentum of batch norm's averages", 0.0, 1.0)
flags.DEFINE_boolean(
    "freeze_batch_norm", False, "normalize by the moving statistics, without updating them"
)
flags.DEFINE_boolean(
    "recompute", False, "recompute activations in the backward pass, for half the memory"
)
flags.DEFINE_float("ema_decay", 0.0, "decay of a moving average of the weights; 0: none", 0.0, 1.0)

_group("Loss", *TRAINING)
flags.DEFINE_enum(
    "loss",
    "multi_label",
    list(LOSSES),
    "; ".join(f"{name}: {loss.meaning}" for name, loss in LOSSES.items()),
)
flags.DEFINE_float("mask_thres", 0.7, "confidence at which a label makes its class positive", 0.0)
flags.DEFINE_float(
    "neg_select", 0.3, "fraction of negative classes kept, redrawn every step", 0.0, 1.0
)
flags.DEFINE_float("positive_weight", 12.0, "loss weight of positive labels", 0.0)
flags.DEFINE_float("positive_offset", 0.01, "added to the count of positive batches", 0.0)
flags.DEFINE_float("negative_offset", 8.0, "added to the count of negative batches", 0.0)
flags.DEFINE_float("counter_scale", 10.0, "divisor of the counts inside the logarithm", 0.0)
flags.DEFINE_float("positive_floor", 0.01, "smallest weight of a positive class", 0.0)
flags.DEFINE_float("negative_cutoff", 0.01, "--negative_floor replaces weights up to this", 0)
flags.DEFINE_float("negative_floor", 0.001, "weight that replaces them; the paper has 0.01", 0.0)
flags.DEFINE_enum(
    "loss_statistics",
    "global",
    ["global", "local"],
    "labels that make a class positive: those of all workers, or each worker's own",
)
flags.DEFINE_float("label_smoothing", 0.0, "fraction of the softmax target spread evenly", 0.0, 1.0)
flags.DEFINE_float("gamma_negative", 4.0, "asymmetric loss: focusing exponent of negatives", 0.0)
flags.DEFINE_float("gamma_positive", 1.0, "asymmetric loss: focusing exponent of positives", 0.0)
flags.DEFINE_float("probability_shift", 0.05, "asymmetric loss: shift of negatives", 0.0, 1.0)

_group("Optimization", *FITTING)
flags.DEFINE_enum("optimizer", "mom", ["mom", "sgd"], "momentum, or plain gradient descent")
flags.DEFINE_float("opt_momentum", 0.9, "momentum", 0.0, 1.0)
flags.DEFINE_float(
    "weight_decay", 1e-4, "factor of the L2 penalty, sum(weight^2) / 2", lower_bound=0.0
)
flags.DEFINE_float("gradient_clip", 0.0, "largest global gradient norm; 0: no limit", 0.0)
flags.DEFINE_integer("accumulate_steps", 1, "micro-batches per step and worker", lower_bound=1)
flags.DEFINE_float("head_lr_mult", 1.0, "learning rate multiplier of logits layer or heads", 0.0)
flags.DEFINE_float("backbone_lr_mult", 1.0, "learning rate multiplier of all other layers", 0.0)

_group("Learning rate", *FITTING)
flags.DEFINE_enum(
    "lr_policy",
    "pretraining",
    ["pretraining", "staircase", "cosine", "polynomial", "constant"],
    "pretraining: exponential warm-up, then --lr with up to four decays; others: linear warm-up",
)
flags.DEFINE_integer("reference_batch", 0, "images per step that --lr is tuned for; 0: any", 0)
flags.DEFINE_float("lr", 0.1, "learning rate after the warm-up", lower_bound=0.0)
flags.DEFINE_float("lr_end", 0.0, "final learning rate of cosine and polynomial", 0.0)
flags.DEFINE_float("lr_power", 1.0, "exponent of the polynomial policy", 0.0)
flags.DEFINE_integer("lr_decay_step", 0, "steps between decays; 0: none", lower_bound=0)
flags.DEFINE_float("lr_decay_factor", 0.1, "factor of each decay", lower_bound=0.0)
flags.DEFINE_integer("warmup", 0, "warm-up steps", lower_bound=0)
flags.DEFINE_float("lr_warmup", 0.1, "learning rate at step 0 of the warm-up", lower_bound=0.0)
flags.DEFINE_integer("lr_warmup_decay_step", 4400, "steps between warm-up raises", lower_bound=1)
flags.DEFINE_float("lr_warmup_decay_factor", 1.414, "factor of each warm-up raise", lower_bound=0.0)

_group("Trained variables", FINETUNE, *DENSE)
flags.DEFINE_list(
    "trainable",
    [],
    "patterns of the variables to train, such as stages_3_*,logits/* (default: all; in a detector, "
    "its heads and stages 1 to 3 except batch norm)",
)

_group("Finetuning", FINETUNE)
flags.DEFINE_boolean("FixBlock2", False, "train only stages 2 and 3, global_pool and logits")
flags.DEFINE_float(
    "bn_decay_fraction", 0.1, "fraction of --weight_decay applied to gamma and beta", 0.0
)

_group("Workers of a step", *FITTING)
flags.DEFINE_integer("global_batch", 0, "global batch size (0: batch_size x workers)", 0)
flags.DEFINE_boolean("sync_batch_norm", False, "compute batch norm's statistics over all workers")

_group("Distributed", *FITTING, EVALUATE)
flags.DEFINE_enum("compression", "none", ["none", "fp16"], "data type of the gradients sent")
flags.DEFINE_integer("gradient_groups", 4, "all-reduce calls per step; 0: one per variable", 0)
flags.DEFINE_integer("stall_seconds", 60, "seconds until a missing worker is reported; 0: never", 0)
flags.DEFINE_integer("stall_shutdown_seconds", 900, "seconds until it ends the job; 0: never", 0)
flags.DEFINE_integer("commit_steps", 10, "elastic: steps between the states to roll back to", 1)

_group("Images", EVALUATE, *PREDICTION, EXPORT, *DENSE)
flags.DEFINE_multi_string(
    "images",
    [],
    "input: list file, folder, glob, TFRecord, image, or - (a list on standard input); positional "
    "arguments are added to it",
)
flags.DEFINE_string(
    "images_dir",
    None,
    "folder that names in lists are relative to (default: the working folder or that of the list, "
    "whichever has them)",
)
flags.DEFINE_string(
    "result",
    None,
    "file to write, whose suffix sets the format; evaluate.py: report folder",
)
flags.DEFINE_boolean("use_ema", False, "use the moving average of the weights")

_group("Folding", EVALUATE, *PREDICTION, EXPORT)
flags.DEFINE_boolean("fold_batch_norm", True, "merge batch norm into the convolution before it")

_group("Crops", EVALUATE, *PREDICTION)
flags.DEFINE_boolean("ten_crop", False, "average over four corners, the center and their mirrors")

_group("Limits of images", EVALUATE, *PREDICTION, *DENSE)
flags.DEFINE_integer("max_pixels", 89478485, "largest image accepted, in pixels", lower_bound=1)
flags.DEFINE_integer(
    "max_image_bytes", 536870912, "memory limit for decoding an image, in bytes", lower_bound=1
)

_group("Prediction", *PREDICTION, *DENSE)
flags.DEFINE_boolean("strict", False, "exit with code 1 if an image could not be read")

_group("Scores", EVALUATE, CLASSIFY, EXPORT)
flags.DEFINE_enum(
    "label_mode",
    "single",
    ["single", "multi"],
    "single: softmax over all classes; multi: a sigmoid per class; default: the mode a checkpoint "
    "of ours was trained in, else single",
)
flags.DEFINE_enum(
    "probabilities",
    "raw",
    ["raw", "corrected", "calibrated"],
    "raw: the network's output, which --positive_weight=12 in training skews: even odds are not "
    "0.5 but 12/13 = 0.92; corrected: without that skew; calibrated: also with the temperature "
    "of evaluate.py --calibrate",
)

_group("Names of classes", *FITTING, EVALUATE, CLASSIFY, EXPORT)
flags.DEFINE_string(
    "dictionary",
    None,
    "file of class names, or dictionary with the hierarchy; training saves it with the checkpoint, "
    "where other scripts find it",
)

_group("Thresholds", EVALUATE, CLASSIFY)
flags.DEFINE_float(
    "threshold",
    0.0,
    "minimum probability (see --probabilities) of a predicted label; if not given, the thresholds "
    "that evaluate.py --calibrate saved with the checkpoint are used, if any",
    0.0,
    1.0,
)
flags.DEFINE_string("threshold_file", None, "rows class<TAB>threshold; --threshold for the others")

_group("Best classes", CLASSIFY, EXPORT, EVALUATE)
flags.DEFINE_integer("top_k_pred", 5, "top classes written per image", lower_bound=1)

_group("Classification", CLASSIFY)
flags.DEFINE_enum(
    "show_labels",
    "all",
    ["all", "specific", "path"],
    "specific: omit ancestors of other shown labels; path: show names from the root down",
)
flags.DEFINE_string("page", None, "HTML page (.html) or contact sheet (.png) of the results")
flags.DEFINE_integer("page_images", 100, "images on --page", lower_bound=1)
flags.DEFINE_integer(
    "explain", 0, "top labels per image that --page shows with a heat map (Grad-CAM)", 0
)

_group("Evaluation", EVALUATE)
flags.DEFINE_string("compare", None, "checkpoint, or its folder, to compare with")
flags.DEFINE_boolean(
    "all_checkpoints", False, "evaluate every checkpoint of the folder, as a curve"
)
flags.DEFINE_list("at_k", ["5", "10"], "values of k for precision, recall and F1 at k")
flags.DEFINE_string(
    "supported_classes", None, "file of the classes to average metrics over (default: all)"
)
flags.DEFINE_string(
    "fit_thresholds", None, "file to write, with the best-F1 threshold of each class"
)
flags.DEFINE_boolean(
    "calibrate", False, "fit temperature and thresholds; save them with the checkpoint"
)
flags.DEFINE_integer("page_classes", 6, "number of worst classes shown with images", lower_bound=0)
flags.DEFINE_integer(
    "page_mistakes", 1000, "images on images.html, the page of mistakes; 0: no page", lower_bound=0
)
flags.DEFINE_enum(
    "predictions",
    "all",
    ["all", "csv", "parquet", "none"],
    "files with a row per image: predictions.csv, and predictions.parquet if pyarrow is installed",
)

_group("Features", EXTRACT)
flags.DEFINE_enum(
    "layer",
    "pooled",
    ["pooled", "stage0", "stage1", "stage2", "stage3", "logits"],
    "the 2,048 features, the pooled output of a stage (before batch norm), or the logits",
)
flags.DEFINE_boolean("l2_normalize", False, "scale each image's features to length 1")
flags.DEFINE_enum(
    "feature_type", "float32", ["float32", "float16"], "type stored in .npy, .npz and .parquet"
)

_group("Export and import", EXPORT)
flags.DEFINE_string("export_dir", "./out/export/", "folder to create; must not exist")
flags.DEFINE_multi_enum(
    "export_format",
    ["saved_model", "onnx", "pytorch"],
    ["saved_model", "onnx", "pytorch"],
    "what to write; repeat the flag for several",
)
flags.DEFINE_float("tolerance", 1e-4, "largest error, relative to the largest logit", 0.0)
flags.DEFINE_string(
    "import_weights", None, "weights (.safetensors, .npz, .h5) to convert to checkpoint --result"
)
flags.DEFINE_boolean("list", False, "print the checkpoint's contents and exit")

_group("Detection", DETECT)
flags.DEFINE_integer("min_side", 600, "short side of resized images, in pixels", 16)
flags.DEFINE_integer("max_side", 1000, "limit on the long side of resized images, in pixels", 16)
flags.DEFINE_list("anchor_scales", ["8", "16", "32"], "anchor sides in units of 16 pixels")
flags.DEFINE_list("anchor_ratios", ["0.5", "1", "2"], "height/width ratios of anchors")
flags.DEFINE_integer("rpn_channels", 512, "filters of the region proposal network", 1)
flags.DEFINE_integer("rpn_samples", 256, "anchors per image that contribute to the loss", 1)
flags.DEFINE_integer("proposals", 2000, "proposals per image in training", 1)
flags.DEFINE_integer("test_proposals", 300, "proposals per image in detection", 1)
flags.DEFINE_integer("regions", 256, "proposals per image that contribute to the loss", 1)
flags.DEFINE_float("nms_iou", 0.3, "IoU above which the worse detection is dropped", 0.0, 1.0)
flags.DEFINE_float("score_threshold", 0.0, "minimum probability of a detection", 0.0, 1.0)
flags.DEFINE_integer("max_detections", 100, "maximum detections per image", 1)
flags.DEFINE_boolean("coco_metrics", False, "also compute COCO's AP (needs the extra coco)")
flags.DEFINE_float("draw_threshold", 0.5, "minimum probability of a box to draw", 0.0, 1.0)

_group("Segmentation", SEGMENT)
flags.DEFINE_integer("crop_size", 513, "side length of training crops in pixels", 17)
flags.DEFINE_float("scale_min", 0.5, "smallest resize factor of training images", 0.01)
flags.DEFINE_float("scale_max", 2.0, "largest resize factor of training images", 0.01)
flags.DEFINE_integer("output_stride", 16, "ratio of image size to feature map size, 16 or 8", 8, 16)
flags.DEFINE_integer("aspp_filters", 256, "filters of each ASPP branch", 1)
flags.DEFINE_list("aspp_rates", ["6", "12", "18"], "dilations of the ASPP branches at stride 16")
flags.DEFINE_list("test_scales", ["1"], "resize factors whose predictions are averaged")
flags.DEFINE_boolean("test_flip", False, "also average over the mirror image")
flags.DEFINE_string("masks_dir", "./out/masks/", "folder for the predicted masks")

_group("Drawings", *DENSE)
flags.DEFINE_string("draw_dir", None, "folder for images with the predictions drawn on them")

FLAGS.set_default("log_dir", "./out/log/")

close_groups(DEFAULTS, WITHOUT_EFFECT)
next(group for group in GROUPS if "log_interval" in group.names).names.append("log_dir")  # absl's

for _name, _current in ALIASES.items():
    flags.DEFINE_alias(_name, _current)
for _name, _instead in WITHOUT_EFFECT.items():
    flags.DEFINE_string(_name, None, f"accepted without effect: {_instead}")
