"""What becomes of each image of an audit, and the manifest or data set that is left."""
