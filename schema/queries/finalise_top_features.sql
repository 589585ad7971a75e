-- In image order as the shards are; within an image as they come, ranks beside them: no sort is needed.
INSERT INTO image_top_features
SELECT image_id, rank, feature_id, value FROM "the old".image_top_features
UNION ALL
SELECT image_id, rank, feature_id, value FROM shard_rows WHERE rank BETWEEN 0 AND 63;
