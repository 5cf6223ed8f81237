"""A checkpoint put to use: loaded, folded, run over pictures, evaluated."""
