"""The dual-modal study: what each modality, each fusion and each step of compression is worth, in one page.

Every figure comes from a cell, a small run of its own that is kept on disk; the page is drawn from the cells.
"""
