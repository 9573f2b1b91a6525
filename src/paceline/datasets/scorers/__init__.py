"""One file a metric, each by the rule of the script that its data set's authors publish, held to recorded results of it.

Pure functions of a text and its references.

Not here: pictures, files, progress, and which set uses which rule (`paceline.datasets.public`).
"""
