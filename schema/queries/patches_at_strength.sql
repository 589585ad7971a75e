-- Patches on which the features in the registered table `chosen` reach `share` of their full strength: the quantile
-- `full` of a feature's activations. Sorted by feature, image, token.
WITH strength AS (
    SELECT feature_id, place, quantile_cont(value::DOUBLE, $full) AS strength
    FROM token_activations JOIN chosen USING (feature_id)
    GROUP BY feature_id, place
)
SELECT place, image_id, token, value >= $strong * strength AS is_strong
FROM token_activations JOIN strength USING (feature_id)
WHERE value >= $reach * strength
ORDER BY place, image_id, token
