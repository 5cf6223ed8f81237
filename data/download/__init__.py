"""Images from URLs: asked for politely, checked, written down, resumable."""
