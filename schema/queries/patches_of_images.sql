-- Activations of the features in the registered table `chosen` on a range of images, in no order.
SELECT image_id, token, place AS feature, value
FROM token_activations JOIN chosen USING (feature_id)
WHERE image_id BETWEEN $first AND $last
