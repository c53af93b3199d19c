"""Compression: distil, prune, trim, quantize."""
