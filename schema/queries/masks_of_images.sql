-- The masks of a range of images, and the value by which they are grouped; NULL where they do not have it.
SELECT image_id, annotation_id, source, is_crowd, mask_height, mask_width, mask_rle,
    CASE $attribute WHEN 'category' THEN category WHEN 'supercategory' THEN supercategory
        ELSE json_extract_string(attributes, $path) END AS label
FROM annotations WHERE mask_rle IS NOT NULL AND image_id BETWEEN $first AND $last
ORDER BY image_id, label, source, annotation_id
