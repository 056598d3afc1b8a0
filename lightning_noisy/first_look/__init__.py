"""Before the first training: a look at the data, a recipe that fits them, and whether the machine is ready."""
