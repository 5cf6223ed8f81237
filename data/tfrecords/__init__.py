"""TFRecord files of labelled images: the format, and lists of pictures turned into it."""
