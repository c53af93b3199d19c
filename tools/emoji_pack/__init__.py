"""Parts of the script that builds the embedded emoji pack."""
