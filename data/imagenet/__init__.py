"""ImageNet's archives, and the pictures of a list taken out of them."""
