-- The images that have masks with a value to group them by, crowds apart.
SELECT image_id, count_if(NOT is_crowd) AS n_masks, count_if(is_crowd) AS n_crowds
FROM annotations
WHERE mask_rle IS NOT NULL AND CASE $attribute WHEN 'category' THEN category WHEN 'supercategory' THEN supercategory
    ELSE json_extract_string(attributes, $path) END IS NOT NULL
GROUP BY image_id ORDER BY image_id
