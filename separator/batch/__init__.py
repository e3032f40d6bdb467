"""Many songs: which, in what order, by whom, and what became of each.

- `inputs`    files, folders, lists and patterns to songs
- `facts`     what a song says about itself, asked in a moment
- `plan`      songs to tasks: outputs, durations, bytes; which are finished already, which are this shard's
- `shard`     the part of a batch that one of several machines takes
- `worker`    one process: the model loads once, songs come one by one
- `engine`    worker processes of this machine, and what happens when one of them fails
- `manifest`  what became of each song, a line each, safe on the disk before anyone is told
- `summary`   manifests to counts, causes and throughput

Nothing here prints. `engine.Engine` is what another way of running the same plan has to offer.
"""
