-- Every token's rows of the images that are kept for the feature, sorted for token maps.
INSERT INTO token_activations
SELECT image_id, token, feature_id, value
FROM (
    SELECT image_id, token, feature_id, value FROM shard_rows WHERE token IS NOT NULL
    UNION ALL
    SELECT image_id, token, feature_id, value FROM "the old".token_activations
)
SEMI JOIN activations USING (feature_id, image_id)
ORDER BY feature_id, image_id, token;
