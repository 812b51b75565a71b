"""An executor runs stages over units: on Ray, or in a plain loop that is the reference for it.

    executor.py      what curation asks for        worker.py   a stage in a process of its own, and what it answers
    local.py         the plain loop                ray_data.py a graph of actor pools, over cluster.py: one Ray cluster
    board.py         what Ray's workers are doing, for the driver's display
    dependencies.py  what the libraries that we build on may do in our processes

Only this folder imports ray.
"""
