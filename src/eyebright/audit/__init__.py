"""`audit`: what is wrong with pictures and labels, before anyone trains on them."""
