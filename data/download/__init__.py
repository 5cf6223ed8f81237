"""Pictures from URLs: asked for politely, checked, written down, resumable."""
