-- Active patches of the (feature, image) pairs in the registered table `pairs`, by the pair's place.
SELECT place, token, value
FROM pairs JOIN token_activations AS t ON t.feature_id = pairs.feature_id AND t.image_id = pairs.image_id
