"""Finding features and images by words, by pictures and by features."""
