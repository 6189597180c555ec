"""Recognition of millions of files on a cluster: `emodistill scale`."""
