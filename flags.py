"""Every command-line flag of the root scripts, each defined once, typed and bounded.

The names and defaults are the released system's (spelling included); flags that it lacked stand
next to them, off by default. A script takes the flags of its own groups. Only root scripts read
flags: data/common/script.py copies the values into the option dataclasses of `data` and `models`,
whose fields bear the flags' names.
"""

from absl import flags, logging  # noqa: F401 - absl's logging defines log_dir

from data.common.flag_groups import GROUPS, close_groups
from data.common.flag_groups import open_group as _group
from models.architecture import BLOCKS
from models.backbones import BACKBONES, RESNET
from models.losses import LOSSES
from models.training.tracker import TRACKERS

FLAGS = flags.FLAGS

# What a script has in place of the defaults below.
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

# The released code defines these and never reads them.
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

# Former names of our own flags, which still work.
ALIASES = {
    "bn_decay_share": "bn_decay_fraction",
    "body_rate": "backbone_lr_mult",
    "colour_probability": "color_probability",
    "head_rate": "head_lr_mult",
}

TRAINING = TRAIN, FINETUNE = "train.py", "finetune.py"
PREDICTION = CLASSIFY, EXTRACT = "image_classification.py", "extract_feature.py"
EVALUATE, EXPORT = "evaluate.py", "export.py"
DENSE = DETECT, SEGMENT = "detect.py", "segment.py"  # objects and pixels of an image
FITTING = *TRAINING, *DENSE
LABELING = tuple(script for script in DEFAULTS if script not in DENSE)  # labels of whole images

_group("Checkpoint", *DEFAULTS)
flags.DEFINE_string(
    "model_dir",
    "./out/checkpoint/",
    "folder of the checkpoints; in the inference scripts a checkpoint or its folder",
)
flags.DEFINE_string(
    "pretrain_ckpt",
    None,
    "checkpoint to start the weights from; in the inference scripts it replaces --model_dir",
)

_group("Network", *DEFAULTS)
flags.DEFINE_integer("class_num", 1000, "classes of the network", lower_bound=1)
_DEPTHS = ", ".join(map(str, BLOCKS))
flags.DEFINE_integer("resnet_size", 101, f"depth: {_DEPTHS}; 14 is for small data and tests")
flags.register_validator("resnet_size", BLOCKS.__contains__, f"must be one of {_DEPTHS}")
flags.DEFINE_float("batch_norm_epsilon", 1e-5, "added to the variance", lower_bound=0.0)

_group("Network's input", *LABELING)
flags.DEFINE_integer("image_size", 224, "side of the network's input in pixels", lower_bound=16)
flags.DEFINE_enum("data_format", "NHWC", ["NHWC", "NCHW"], "layout; NCHW needs a GPU")

_group("Records", *FITTING, EVALUATE)
flags.DEFINE_string(
    "data_dir",
    "./data/train/",
    "folder (or glob) of the training TFRecords, or the folder above train/; also a URL such as "
    "s3://bucket/records/",
)
flags.DEFINE_string("val_dir", None, "folder (or glob) of TFRecords to evaluate on while training")
flags.DEFINE_integer("max_bad_records", 100, "unreadable records until the run stops", 0)
flags.DEFINE_enum(
    "read_order",
    "auto",
    ["auto", "records", "blocks"],
    "read and shuffle single records, or blocks of them where a read takes long to begin; auto: "
    "blocks from URLs, network file systems and spinning disks",
)
flags.DEFINE_float("block_mib", 2.0, "size of a block that is read at once, in MiB", 0.001)
flags.DEFINE_integer("readers", 8, "threads that read blocks ahead", lower_bound=1)
flags.DEFINE_string(
    "cache_dir", None, "folder of this machine that keeps what is read from URLs (default: none)"
)
flags.DEFINE_float("cache_gib", 100.0, "most that it holds, in GiB", 0.0)

_group("Positive labels", *TRAINING, EVALUATE)
flags.DEFINE_float(
    "positive_threshold", 0.5, "confidence from which a label counts as positive", 0.0, 1.0
)
flags.DEFINE_string(
    "scratch_dir", None, "folder of scores while evaluating: 4 bytes x images x classes"
)

_group("Input", *FITTING, EVALUATE, *PREDICTION)
flags.DEFINE_integer("batch_size", 512, "images per micro-batch of one process", lower_bound=1)
flags.DEFINE_integer("num_preprocess_threads", 4, "threads that decode images", lower_bound=1)
flags.DEFINE_enum(
    "precision",
    "float32",
    ["float32", "bfloat16", "float16"],
    "type of the layers' arithmetic (float32 on processors that are slower in 16 bits); variables, "
    "statistics and loss stay float32",
)

_group("Devices", *FITTING, EVALUATE, *PREDICTION)
flags.DEFINE_string("visiable_gpu", "0", "indices of the GPUs to use, comma-separated")
flags.DEFINE_integer("num_gpus", 1, "GPUs per process, always 1: start one process per GPU")
flags.register_validator(
    "num_gpus",
    lambda number: number == 1,
    "a process has one GPU; for 4: NP=4 example/train_distributed.sh example/train.sh",
)
flags.DEFINE_integer("threads", 0, "threads an operation may use; 0: every core", lower_bound=0)
flags.DEFINE_boolean("xla", False, "compile clusters of operations with XLA; for GPUs")
flags.DEFINE_boolean("deterministic", False, "bit-identical runs, at some cost in speed")
flags.DEFINE_integer("random_seed", 1234, "seed of weights, order, augmentation and draws")

_group("Run", *FITTING)
flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "val", "predict"],
    "train; val: evaluate the latest checkpoint once and stop; predict: detect.py and segment.py",
)
flags.DEFINE_boolean("restore", False, "stop if there is no checkpoint to start from")
flags.DEFINE_integer("max_iter", 1000000, "steps to train", lower_bound=1)
flags.DEFINE_float("epochs", 0.0, "passes over the records, in place of --max_iter", 0.0)
flags.DEFINE_integer("snapshot", 4400, "steps between checkpoints", lower_bound=1)
flags.DEFINE_integer("max_to_keep", 200, "latest checkpoints kept", lower_bound=1)
flags.DEFINE_integer("log_interval", 10, "steps between log lines", lower_bound=1)
flags.DEFINE_integer("prof_interval", 10, "steps that images/s is averaged over", lower_bound=1)
flags.DEFINE_integer(
    "eval_interval", 0, "steps between evaluations; 0: only after the last step", lower_bound=0
)
flags.DEFINE_enum(
    "tracker",
    None,
    list(TRACKERS),
    "experiment tracker that gets the numbers of the log, too; mlflow (an extra) keeps them in "
    "mlflow.db of --log_dir or where MLFLOW_TRACKING_URI says",
)
flags.DEFINE_string("best_metric", None, "metric by which the best checkpoint is kept in best/")
flags.DEFINE_integer(
    "patience", 0, "end after so many evaluations without a better one; 0: never", 0
)

_group("Order of records", *FITTING)
flags.DEFINE_integer("file_shuffle_buffer", 1500, "files shuffled together", lower_bound=1)
flags.DEFINE_integer("shuffle_buffer", 2048, "records shuffled together, at least", lower_bound=1)

flags.DEFINE_integer(
    "shuffle_blocks", 256, "blocks shuffled together, at least, where records are read in blocks", 1
)

_group("Classes of records", *TRAINING)
flags.DEFINE_float(
    "class_balance", 0.0, "0: records as they are; 1: every class about equally often", 0.0
)
flags.DEFINE_boolean(
    "count_classes", False, "log each class's images, from the manifest or by reading all labels"
)
flags.DEFINE_boolean("synthetic", False, "train on one artificial batch, to measure compute alone")

_group("Mirrored images", *FITTING)
flags.DEFINE_float("flip_probability", 0.5, "fraction of images mirrored", 0.0, 1.0)

_group("Augmentation", *TRAINING)
flags.DEFINE_float("area_min", 0.7, "minimum crop area as a fraction of the image", 0.0, 1.0)
flags.DEFINE_float("area_max", 1.0, "largest fraction of the image that a crop keeps", 0.0, 1.0)
flags.DEFINE_float("aspect_min", 0.75, "least width over height of a crop", 0.0)
flags.DEFINE_float("aspect_max", 1.33, "largest width over height of a crop", 0.0)
flags.DEFINE_float("rotate_probability", 1 / 3, "fraction rotated, with color order A", 0.0, 1.0)
flags.DEFINE_float("color_probability", 1 / 3, "fraction with color order B, unrotated", 0.0, 1.0)
flags.DEFINE_float("rotate_degrees", 45.0, "largest angle of rotation, in degrees", 0.0, 180.0)
flags.DEFINE_float("brightness", 32 / 255, "largest change of brightness in [0, 1]", 0.0, 1.0)
flags.DEFINE_float("saturation_min", 0.5, "least factor of saturation", 0.0)
flags.DEFINE_float("saturation_max", 1.5, "largest factor of saturation", 0.0)
flags.DEFINE_float("hue", 0.2, "largest change of hue, in turns", 0.0, 0.5)
flags.DEFINE_float("contrast_min", 0.5, "least factor of contrast", 0.0)
flags.DEFINE_float("contrast_max", 1.5, "largest factor of contrast", 0.0)
flags.DEFINE_integer("randaugment_layers", 0, "operations of RandAugment per image; 0: none", 0)
flags.DEFINE_float("randaugment_magnitude", 9.0, "strength of RandAugment", 0.0, 10.0)
flags.DEFINE_float("mixup_alpha", 0.0, "alpha of mixup's Beta distribution; 0: no mixup", 0.0)

_group("Kind of network", *TRAINING)
flags.DEFINE_enum("backbone", RESNET, list(BACKBONES), "kind of network")

_group("Training of the network", *FITTING)
flags.DEFINE_integer("width", 64, "filters of the stem, 64 in every released size", lower_bound=1)
flags.DEFINE_float("batch_norm_decay", 0.997, "momentum of the moving statistics", 0.0, 1.0)
flags.DEFINE_boolean(
    "freeze_batch_norm", False, "normalize by the moving statistics, and keep them"
)
flags.DEFINE_boolean(
    "recompute", False, "recompute activations in the backward pass: half the memory"
)
flags.DEFINE_float("ema_decay", 0.0, "decay of a moving average of the weights; 0: none", 0.0, 1.0)

_group("Loss", *TRAINING)
flags.DEFINE_enum(
    "loss",
    "multi_label",
    list(LOSSES),
    "; ".join(f"{name}: {loss.meaning}" for name, loss in LOSSES.items()),
)
flags.DEFINE_float("mask_thres", 0.7, "confidence from which a label makes its class positive", 0.0)
flags.DEFINE_float(
    "neg_select", 0.3, "fraction of negative classes kept, drawn every step", 0.0, 1.0
)
flags.DEFINE_float("positive_weight", 12.0, "loss weight of positive labels", 0.0)
flags.DEFINE_float("positive_offset", 0.01, "added to the count of positive batches", 0.0)
flags.DEFINE_float("negative_offset", 8.0, "added to the count of negative batches", 0.0)
flags.DEFINE_float("counter_scale", 10.0, "divisor of the counts inside the logarithm", 0.0)
flags.DEFINE_float("positive_floor", 0.01, "least weight of a positive class", 0.0)
flags.DEFINE_float("negative_cutoff", 0.01, "weight up to which a negative class gets the floor", 0)
flags.DEFINE_float("negative_floor", 0.001, "that floor; the paper's formula has 0.01", 0.0)
flags.DEFINE_enum(
    "loss_statistics",
    "global",
    ["global", "local"],
    "whose labels make a class positive: those of all workers, or each worker's own",
)
flags.DEFINE_float("label_smoothing", 0.0, "fraction of a softmax target spread evenly", 0.0, 1.0)
flags.DEFINE_float("gamma_negative", 4.0, "asymmetric loss: focus on hard negatives", 0.0)
flags.DEFINE_float("gamma_positive", 1.0, "asymmetric loss: focus on hard positives", 0.0)
flags.DEFINE_float("probability_shift", 0.05, "asymmetric loss: shift of negatives", 0.0, 1.0)

_group("Optimization", *FITTING)
flags.DEFINE_enum("optimizer", "mom", ["mom", "sgd"], "momentum, or plain gradient descent")
flags.DEFINE_float("opt_momentum", 0.9, "momentum", 0.0, 1.0)
flags.DEFINE_float("weight_decay", 1e-4, "factor of half the squared weights", lower_bound=0.0)
flags.DEFINE_float("gradient_clip", 0.0, "largest global norm of gradients; 0: no limit", 0.0)
flags.DEFINE_integer("accumulate_steps", 1, "micro-batches per step of a worker", lower_bound=1)
flags.DEFINE_float(
    "head_lr_mult", 1.0, "factor of the learning rate of the logits layer or the heads", 0.0
)
flags.DEFINE_float("backbone_lr_mult", 1.0, "factor of the learning rate of all other layers", 0.0)

_group("Learning rate", *FITTING)
flags.DEFINE_enum(
    "lr_policy",
    "pretraining",
    ["pretraining", "staircase", "cosine", "polynomial", "constant"],
    "pretraining: exponential warm-up, then --lr with up to four decays; others warm up linearly",
)
flags.DEFINE_integer("reference_batch", 0, "images per step that --lr is for; 0: any number", 0)
flags.DEFINE_float("lr", 0.1, "learning rate after the warm-up", lower_bound=0.0)
flags.DEFINE_float("lr_end", 0.0, "learning rate at the end of cosine and polynomial", 0.0)
flags.DEFINE_float("lr_power", 1.0, "exponent of the polynomial policy", 0.0)
flags.DEFINE_integer("lr_decay_step", 0, "steps between decays; 0: none", lower_bound=0)
flags.DEFINE_float("lr_decay_factor", 0.1, "factor of each decay", lower_bound=0.0)
flags.DEFINE_integer("warmup", 0, "steps of warm-up", lower_bound=0)
flags.DEFINE_float("lr_warmup", 0.1, "learning rate at step 0 of the warm-up", lower_bound=0.0)
flags.DEFINE_integer("lr_warmup_decay_step", 4400, "steps between warm-up raises", lower_bound=1)
flags.DEFINE_float("lr_warmup_decay_factor", 1.414, "factor of each warm-up raise", lower_bound=0.0)

_group("Trained variables", FINETUNE, *DENSE)
flags.DEFINE_list(
    "trainable",
    [],
    "train variables like stages_3_*,logits/* (default: all; of a detector: its heads, and stages 1"
    " to 3 without batch norms)",
)

_group("Finetuning", FINETUNE)
flags.DEFINE_boolean("FixBlock2", False, "train only stages 2 and 3, global_pool and logits")
flags.DEFINE_float(
    "bn_decay_fraction", 0.1, "finetune.py: fraction of the decay on gamma, beta", 0.0
)

_group("Workers of a step", *FITTING)
flags.DEFINE_integer("global_batch", 0, "global batch size (0: batch_size x workers)", 0)
flags.DEFINE_boolean("sync_batch_norm", False, "normalize by the batches of all workers")

_group("Distributed", *FITTING, EVALUATE)
flags.DEFINE_enum("compression", "none", ["none", "fp16"], "type in which gradients are sent")
flags.DEFINE_integer("gradient_groups", 4, "all-reduce calls per step; 0: one per variable", 0)
flags.DEFINE_integer("stall_seconds", 60, "until a missing worker is reported; 0: never", 0)
flags.DEFINE_integer("stall_shutdown_seconds", 900, "until its absence ends the job; 0: never", 0)
flags.DEFINE_integer("commit_steps", 10, "elastic: steps between copies to return to", 1)

_group("Images", EVALUATE, *PREDICTION, EXPORT, *DENSE)
flags.DEFINE_multi_string(
    "images",
    [],
    "input: list file, folder, glob, TFRecord, image, or - (a list on standard input); "
    "arguments without a dash are added",
)
flags.DEFINE_string(
    "images_dir",
    None,
    "folder that the names in lists are relative to (default: where they are found, the working "
    "folder or that of the list)",
)
flags.DEFINE_string(
    "result",
    None,
    "file to write, its suffix sets the format; evaluate.py: folder of its report",
)
flags.DEFINE_boolean("use_ema", False, "take the moving average of the weights")

_group("Folding", EVALUATE, *PREDICTION, EXPORT)
flags.DEFINE_boolean("fold_batch_norm", True, "merge batch norm into the convolution before it")

_group("Crops", EVALUATE, *PREDICTION)
flags.DEFINE_boolean("ten_crop", False, "average over four corners, the center and their mirrors")

_group("Limits of images", EVALUATE, *PREDICTION, *DENSE)
flags.DEFINE_integer("max_pixels", 89478485, "larger images are refused", lower_bound=1)
flags.DEFINE_integer(
    "max_image_bytes", 536870912, "bytes that decoding an image may take", lower_bound=1
)

_group("Prediction", *PREDICTION, *DENSE)
flags.DEFINE_boolean("strict", False, "exit with code 1 if an image could not be read")

_group("Scores", EVALUATE, CLASSIFY, EXPORT)
flags.DEFINE_enum(
    "label_mode",
    "single",
    ["single", "multi"],
    "single: probabilities of all classes add up to 1 (softmax); multi: each on its own (sigmoid); "
    "not given: as a checkpoint of ours was trained",
)
flags.DEFINE_enum(
    "probabilities",
    "raw",
    ["raw", "corrected", "calibrated"],
    "raw: as the network gives them; where training counted a positive label 12 times "
    "(--positive_weight), 0.5 is not as likely as not, 12/13 = 0.92 is; corrected: that weight is "
    "taken back; calibrated: also with the temperature of evaluate.py --calibrate",
)

_group("Names of classes", *FITTING, EVALUATE, CLASSIFY, EXPORT)
flags.DEFINE_string(
    "dictionary",
    None,
    "file of class names, or dictionary with the hierarchy; training keeps it with the checkpoint, "
    "where other scripts find it",
)

_group("Thresholds", EVALUATE, CLASSIFY)
flags.DEFINE_float(
    "threshold",
    0.0,
    "least probability that is written, one of --probabilities; image_classification.py without it "
    "takes the thresholds that evaluate.py --calibrate has kept with the checkpoint, if there are",
    0.0,
    1.0,
)
flags.DEFINE_string("threshold_file", None, "rows class<TAB>threshold; --threshold for the others")

_group("Best classes", CLASSIFY, EXPORT, EVALUATE)
flags.DEFINE_integer("top_k_pred", 5, "best classes written for an image", lower_bound=1)

_group("Classification", CLASSIFY)
flags.DEFINE_enum(
    "show_labels",
    "all",
    ["all", "specific", "path"],
    "specific: no label above another one in the hierarchy; path: names from the root down",
)
flags.DEFINE_string("page", None, "HTML page (.html) or contact sheet (.png) of the results")
flags.DEFINE_integer("page_images", 100, "first images shown there", lower_bound=1)
flags.DEFINE_integer(
    "explain", 0, "best labels of an image that are shown there with a heat map (Grad-CAM)", 0
)

_group("Evaluation", EVALUATE)
flags.DEFINE_string("compare", None, "another checkpoint, or its folder, to compare with")
flags.DEFINE_boolean(
    "all_checkpoints", False, "evaluate every checkpoint of the folder, as a curve"
)
flags.DEFINE_list("at_k", ["5", "10"], "the k of precision, recall and F1 at k")
flags.DEFINE_string(
    "supported_classes", None, "file of the classes that means are over (default: all)"
)
flags.DEFINE_string("fit_thresholds", None, "file to write each class's threshold of best F1 to")
flags.DEFINE_boolean(
    "calibrate", False, "fit temperature and thresholds to these images; the checkpoint keeps them"
)
flags.DEFINE_integer("page_classes", 6, "worst classes shown with images", lower_bound=0)
flags.DEFINE_integer(
    "page_mistakes", 1000, "images on the page of mistakes, images.html; 0: no page", lower_bound=0
)
flags.DEFINE_enum(
    "predictions",
    "all",
    ["all", "csv", "parquet", "none"],
    "files of a row per image: predictions.csv, and predictions.parquet if pyarrow is installed",
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
flags.DEFINE_string("export_dir", "./out/export/", "folder to make; it must not exist yet")
flags.DEFINE_multi_enum(
    "export_format",
    ["saved_model", "onnx", "pytorch"],
    ["saved_model", "onnx", "pytorch"],
    "what to write; repeat the flag for several",
)
flags.DEFINE_float("tolerance", 1e-4, "largest difference of an export, of the largest logit", 0.0)
flags.DEFINE_string(
    "import_weights", None, "weights (.safetensors, .npz, .h5) to make the checkpoint --result of"
)
flags.DEFINE_boolean("list", False, "print what the checkpoint holds, and stop")

_group("Detection", DETECT)
flags.DEFINE_integer("min_side", 600, "short side that images are resized to, in pixels", 16)
flags.DEFINE_integer("max_side", 1000, "largest long side of a resized image, in pixels", 16)
flags.DEFINE_list("anchor_scales", ["8", "16", "32"], "sides of square anchors, in 16 pixels")
flags.DEFINE_list("anchor_ratios", ["0.5", "1", "2"], "heights of anchors over their widths")
flags.DEFINE_integer("rpn_channels", 512, "filters of the region proposal network", 1)
flags.DEFINE_integer("rpn_samples", 256, "anchors per image that have a loss", 1)
flags.DEFINE_integer("proposals", 2000, "proposals per image in training", 1)
flags.DEFINE_integer("test_proposals", 300, "proposals per image in detection", 1)
flags.DEFINE_integer("regions", 256, "proposals per image that have a loss", 1)
flags.DEFINE_float("nms_iou", 0.3, "overlap from which the worse of two detections goes", 0.0, 1.0)
flags.DEFINE_float("score_threshold", 0.0, "least probability of a detection", 0.0, 1.0)
flags.DEFINE_integer("max_detections", 100, "detections per image", 1)
flags.DEFINE_boolean("coco_metrics", False, "evaluate by COCO's AP, too (needs the extra coco)")
flags.DEFINE_float("draw_threshold", 0.5, "least probability of a box that is drawn", 0.0, 1.0)

_group("Segmentation", SEGMENT)
flags.DEFINE_integer("crop_size", 513, "side of training crops in pixels", 17)
flags.DEFINE_float("scale_min", 0.5, "least factor that training images are resized by", 0.01)
flags.DEFINE_float("scale_max", 2.0, "largest factor that training images are resized by", 0.01)
flags.DEFINE_integer("output_stride", 16, "image over map size, 16 or 8", 8, 16)
flags.DEFINE_integer("aspp_filters", 256, "outputs of each branch of the pyramid", 1)
flags.DEFINE_list("aspp_rates", ["6", "12", "18"], "dilations of its branches, at stride 16")
flags.DEFINE_list("test_scales", ["1"], "factors of an image whose predictions are averaged")
flags.DEFINE_boolean("test_flip", False, "average over the mirror image, too")
flags.DEFINE_string("masks_dir", "./out/masks/", "folder of the predicted masks")

_group("Drawings", *DENSE)
flags.DEFINE_string("draw_dir", None, "folder for the images with what was found drawn on them")

FLAGS.set_default("log_dir", "./out/log/")

close_groups(DEFAULTS, WITHOUT_EFFECT)
next(group for group in GROUPS if "log_interval" in group.names).names.append("log_dir")  # absl's

for _name, _current in ALIASES.items():
    flags.DEFINE_alias(_name, _current)
for _name, _instead in WITHOUT_EFFECT.items():
    flags.DEFINE_string(_name, None, f"accepted without effect: {_instead}")
