"""Recognition of millions of files with Ray Data: `emodistill scale`.

The manifest is cut into shards. A worker is a Ray actor that loads the model once and writes one Parquet part
for each shard. A part appears complete or not at all, so a later run continues with the missing ones.
"""
