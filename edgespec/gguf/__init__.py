"""Files: headers, what a model file is and whether it can be run."""
