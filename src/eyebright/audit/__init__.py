"""What is wrong with the data, before anyone believes a number made of them."""
