"""Predicts image labels; see example/image_classification.sh and multi_label_classification.sh.

    python image_classification.py --model_dir=CHECKPOINT --result=label_pred.txt IMAGE...

The suffix of --result selects the format: the released text, CSV, JSON lines or Parquet.
"""

import dataclasses
import hashlib

import numpy as np

import flags
from data.common import script
from data.common.errors import UserError
from data.input.image_batches import ImageBatch
from data.outputs import prediction_html
from data.outputs.prediction_files import FORMATS
from data.outputs.predictions import LabelSelector, Prediction
from data.outputs.result_files import choose_format
from models.calibration import Calibration
from models.checkpoints import metadata
from models.devices import DeviceOptions
from models.prediction import image_job
from models.prediction.explain import Explainer
from models.prediction.image_job import DECISIVE, SCORES, ImageJobOptions
from models.prediction.inference import FROM_CHECKPOINT, Loaded, NetworkOptions, Predictor

FLAGS = flags.FLAGS
SETTINGS = (
    *("label_mode", "top_k_pred", "dictionary"),
    *("probabilities", "threshold", "threshold_file", "show_labels"),
)


def main() -> int:
    result_format = choose_format(FORMATS, FLAGS.result)
    if FLAGS.page:
        prediction_html.check_suffix(FLAGS.page)
    elif FLAGS.explain:
        raise UserError("--explain needs --page, which shows the heat maps")
    network = script.from_flags(NetworkOptions, **script.given(*FROM_CHECKPOINT))
    path = FLAGS.pretrain_ckpt or FLAGS.model_dir
    loaded = image_job.load(path, network, script.from_flags(DeviceOptions))
    script.set_defaults(image_job.label_mode(loaded.prefix))
    scores = FLAGS.probabilities, SCORES[FLAGS.label_mode], loaded.use_ema
    calibration = metadata.calibration_of(loaded.prefix, *scores)
    selector = make_selector(loaded, calibration)
    predictor = Predictor(loaded.network, calibration.score, calibration=calibration)
    group, options = image_job.process_group(), script.from_flags(ImageJobOptions)
    # With several processes, the one that joins the shards has the first images.
    count = FLAGS.page_images if FLAGS.page and group.collects else 0
    explain = Explainer(loaded.network, loaded.image_size) if FLAGS.explain else None
    page = prediction_html.PredictionPage(count, FLAGS.explain, explain)

    def describe(batch: ImageBatch, probabilities: np.ndarray) -> list[Prediction]:
        predictions = predict(selector, batch, probabilities)
        page.add(predictions, batch)
        return predictions

    settings = script.values(*DECISIVE, *SETTINGS) | dataclasses.asdict(calibration)
    settings["thresholds"] = hashlib.sha256(selector.thresholds.tobytes()).hexdigest()
    job = loaded, group, options, result_format, predictor, describe, settings
    code = image_job.run(*job, shown=count)
    if FLAGS.page and group.collects:
        page.write(FLAGS.page)
    return code


def make_selector(loaded: Loaded, calibration: Calibration) -> LabelSelector:
    """Selects the labels to show, and how, by the flags and the checkpoint."""
    class_num = loaded.network.class_num
    classes = metadata.classes_of(loaded.prefix, class_num, FLAGS.dictionary)
    known = loaded.prefix, class_num, calibration, loaded.use_ema
    given = script.given("threshold")
    thresholds = metadata.thresholds_of(*known, **given, threshold_file=FLAGS.threshold_file)
    chosen = FLAGS.top_k_pred, thresholds, FLAGS.show_labels
    return LabelSelector(classes.names, *chosen, classes.hierarchy)


def predict(
    selector: LabelSelector, batch: ImageBatch, probabilities: np.ndarray
) -> list[Prediction]:
    """The prediction for each image of a batch, in order."""
    return [
        Prediction(image.name, image.label, (), image.problem)
        if image.problem
        else Prediction(image.name, image.label, selector.choose(scores))
        for image, scores in zip(batch.images, probabilities, strict=True)
    ]


if __name__ == "__main__":
    script.run(main, files="images")
