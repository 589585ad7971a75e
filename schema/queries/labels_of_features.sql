-- The newest label of each of some features, from the view over the results of `labels`.
SELECT feature_id, arg_max(label, run_id) FROM labels
WHERE space = $space AND list_contains($features::INTEGER[], feature_id) AND label <> ''
GROUP BY feature_id;
