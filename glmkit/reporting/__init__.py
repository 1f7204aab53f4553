"""From run folders to one HTML file."""
