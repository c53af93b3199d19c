"""Apps for bundles; what `dmedge app` writes is made from the files here."""
