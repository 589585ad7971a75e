-- The k strongest images of every feature among those in the registered table `among`; ties go to the lower image.
SELECT feature_id, image_id FROM activations SEMI JOIN among USING (image_id)
QUALIFY row_number() OVER (PARTITION BY feature_id ORDER BY value DESC, image_id) <= $k
ORDER BY feature_id, value DESC, image_id
