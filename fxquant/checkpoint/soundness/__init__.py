"""
Whether a loaded graph is sound: it can run on the input that it declares, its constants fit, and what it costs is bounded.

Nothing is computed here: the graph runs on shapes alone. What is wrong is a `CheckpointError` that names the node.
"""
