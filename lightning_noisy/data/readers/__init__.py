"""From a source to its splits: one reader for each kind of source."""
