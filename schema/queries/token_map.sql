-- Where on one image a feature is active.
SELECT token, value FROM token_activations WHERE feature_id = $feature AND image_id = $image;
