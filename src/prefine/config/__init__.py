"""What a user may write in a configuration, and the code that each name in it stands for."""
