"""TFRecord files of labeled images: the format, and the conversion of lists."""
