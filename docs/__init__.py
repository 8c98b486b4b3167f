"""The pages, and scripts that make what they show."""
