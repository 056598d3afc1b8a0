"""The page of an audit for people, and its table in W&B."""
