"""Image lists and the class hierarchy: parse, check, count, rewrite."""
