-- One pass over the sorted rows; features that are never active get zeros.
INSERT INTO feature_stats
WITH counted AS (
    SELECT feature_id, count(*) AS n_active, stddev_samp(value::DOUBLE) AS std_active,
           max(value) AS max_value, sum(value::DOUBLE) AS sum_value, sum(value::DOUBLE * value) AS sum_squares
    FROM activations GROUP BY feature_id
),
tokens AS (SELECT feature_id, count(*) AS n_tokens FROM token_activations GROUP BY feature_id)
SELECT feature_id, coalesce(n_active, 0)::INTEGER, coalesce(n_active, 0) / greatest($n_images, 1),
       sum_value / n_active, std_active, max_value, coalesce(sum_value, 0), coalesce(sum_squares, 0),
       CASE WHEN $has_tokens THEN coalesce(n_tokens, 0) END
FROM (SELECT unnest(range($n_features))::INTEGER AS feature_id)
LEFT JOIN counted USING (feature_id) LEFT JOIN tokens USING (feature_id)
ORDER BY feature_id;
