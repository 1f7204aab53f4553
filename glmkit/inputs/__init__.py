"""What people bring, read in one place."""
