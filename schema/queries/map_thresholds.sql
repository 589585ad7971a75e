-- A quantile of each feature's activations over the patches on which it is active.
SELECT feature_id, quantile_cont(value, $quantile) AS threshold FROM token_activations GROUP BY feature_id
