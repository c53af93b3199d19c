"""The embedded emoji data, evaluation sets, and what turns pictures and text into model inputs."""
