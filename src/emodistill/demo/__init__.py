"""The demo corpus, synthetic emotional speech that ships with the package, and `emodistill demo`."""
