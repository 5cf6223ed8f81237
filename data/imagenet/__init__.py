"""ImageNet's archives, and the images of a list taken out of them."""
