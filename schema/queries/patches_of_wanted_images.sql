-- Activations on the images of the registered table `wanted`, by the image's number there, in no order.
SELECT number, token, feature_id, value FROM token_activations JOIN wanted USING (image_id)
