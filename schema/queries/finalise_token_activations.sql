-- Every token's rows, sorted for token maps and co-occurrence.
INSERT INTO token_activations
SELECT image_id, token, feature_id, value
FROM (
    SELECT image_id, token, feature_id, value FROM shard_rows WHERE token IS NOT NULL
    UNION ALL
    SELECT image_id, token, feature_id, value FROM "the old".token_activations
)
ORDER BY feature_id, image_id, token;
