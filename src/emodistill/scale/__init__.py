"""Recognition of millions of files with Ray Data: `emodistill scale`.

The manifest is cut into shards. A worker is a Ray actor that loads the model once and writes one Parquet part
for each shard. A part appears complete or not at all, so a later run continues with the missing ones.
"""

# Defaults of the command, here because importing this file loads nothing else.
SHARD_ROWS = 1000  # by scripts/scale_simulation.py, 200 to 1000 are close to the best for most clusters
RETRIES = 5  # of a read or a write that fails for a reason that may pass
MAX_MB = 2000  # of a recording from a server, so that no server can fill the disk of a worker
