"""What is made before the algorithms train, through TRL's trainers, and kept by its content."""
