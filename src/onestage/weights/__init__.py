"""The one door for every file that holds tensors: recognise, fetch, load, transfer, write."""
