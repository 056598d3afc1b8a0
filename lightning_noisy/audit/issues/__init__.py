"""What is wrong with images beside their labels: duplicates, pictures of no class, poor quality."""
