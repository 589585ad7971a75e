-- Pooled rows of the shards and of the file that is being replaced, sorted for top images and statistics.
INSERT INTO activations
SELECT image_id, feature_id, value, token
FROM (
    SELECT image_id, feature_id, value, token FROM shard_rows WHERE rank >= 0
    UNION ALL
    SELECT image_id, feature_id, value, token FROM "the old".activations
)
ORDER BY feature_id, value DESC, image_id;
