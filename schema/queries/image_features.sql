-- The leading features of one image, from the table in image order.
SELECT feature_id, value, rank FROM image_top_features WHERE image_id = $image
ORDER BY rank LIMIT $k;
