"""A checkpoint put to use: loaded, folded, run over images, evaluated."""
