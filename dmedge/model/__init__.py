"""The models: towers, fusion, heads, and the checkpoint that holds them."""
