-- How many token activations of the features in the registered table `chosen` each image has.
SELECT image_id, count(*) AS n_rows FROM token_activations SEMI JOIN chosen USING (feature_id) GROUP BY image_id
