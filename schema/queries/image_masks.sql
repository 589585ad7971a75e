-- The objects of one image that have a mask.
SELECT annotation_id, category, is_crowd, mask_height, mask_width, mask_rle
FROM annotations WHERE image_id = $image AND mask_rle IS NOT NULL ORDER BY source, annotation_id;
