-- The strongest images of each feature among the rows of the shards and of the file that is being replaced, sorted as in
-- every space. Of equal values the lower image counts as stronger.
INSERT INTO activations
SELECT image_id, feature_id, value, token
FROM (
    SELECT image_id, feature_id, value, token FROM shard_rows WHERE rank >= 0
    UNION ALL
    SELECT image_id, feature_id, value, token FROM "the old".activations
)
QUALIFY row_number() OVER (PARTITION BY feature_id ORDER BY value DESC, image_id) <= $keep
ORDER BY feature_id, value DESC, image_id;
