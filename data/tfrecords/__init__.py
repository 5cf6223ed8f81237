"""TFRecord files of labeled images: the format, and lists of images turned into it."""
