-- The best match of each feature over all the spaces that it was compared with, from the named runs of `comparison`.
SELECT space, feature_id, other, other_feature_id, cosine, bool_or(is_known) OVER every_match AS is_known
FROM comparison
WHERE list_contains($runs::INTEGER[], run_id) AND rank = 0
WINDOW every_match AS (PARTITION BY space, feature_id)
QUALIFY row_number() OVER (PARTITION BY space, feature_id ORDER BY cosine DESC, other) = 1
ORDER BY cosine DESC, space, feature_id;
