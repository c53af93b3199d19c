"""Compression: trim, distil, prune, quantize."""
