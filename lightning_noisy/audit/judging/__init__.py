"""What is known of each given label: by a trained model, or by features of a frozen one."""
