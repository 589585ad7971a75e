-- The values by which the masks of a range of images are grouped.
SELECT DISTINCT CASE $attribute WHEN 'category' THEN category WHEN 'supercategory' THEN supercategory
    ELSE json_extract_string(attributes, $path) END AS label
FROM annotations
WHERE mask_rle IS NOT NULL AND NOT is_crowd AND image_id BETWEEN $first AND $last AND label IS NOT NULL
ORDER BY label
