"""One pass of a network over every image, by any number of processes; after a kill it goes on where it was."""
