"""What `diff` tells of two models: compare.py has the whole, the other files a kind of difference each."""
