-- Active patches of the images in the registered table `chosen`, by the image's place.
SELECT place, token, feature_id, value
FROM chosen JOIN token_activations USING (image_id)
