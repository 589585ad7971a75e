-- Every active feature of one image. Reads the whole feature-sorted table: slow in large spaces.
SELECT feature_id, value, (row_number() OVER (ORDER BY value DESC, feature_id) - 1)::INTEGER AS rank
FROM activations WHERE image_id = $image ORDER BY rank;
