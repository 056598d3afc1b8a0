"""One pass of a network over every image, by any number of processes; after a kill it resumes where it stopped."""
