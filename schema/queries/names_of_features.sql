-- The newest name of each of some features, from the view over the results of `names`.
SELECT feature_id, arg_max(name, run_id) FROM names
WHERE space = $space AND list_contains($features::INTEGER[], feature_id) AND name <> ''
GROUP BY feature_id;
