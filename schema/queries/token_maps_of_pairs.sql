-- Active tokens of the (feature, image) pairs in the registered table `pairs`, whose features lie in $first..$last,
-- image by image. The bounds let DuckDB skip what lies outside: the table is sorted by feature.
SELECT pairs.image_id, pairs.feature_id, token, value
FROM pairs JOIN token_activations AS t ON t.feature_id = pairs.feature_id AND t.image_id = pairs.image_id
WHERE t.feature_id BETWEEN $first AND $last
ORDER BY pairs.image_id, pairs.feature_id, token
