-- The images on which a feature is strongest. The table is sorted for this: only the feature's row groups are read.
SELECT image_id, value, token FROM activations WHERE feature_id = $feature
ORDER BY value DESC, image_id LIMIT $k;
