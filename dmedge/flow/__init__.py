"""What composes stages: recipes, the demo, search."""
