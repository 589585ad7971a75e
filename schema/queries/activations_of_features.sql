-- Activations of neighbouring features, as the file has them: by feature, value descending, image.
SELECT feature_id, image_id, value FROM activations WHERE feature_id BETWEEN $first AND $last
