"""Loss functions: they take tensors and return their named parts."""
