-- The labels of masks that are no crowds, under the attribute that groups them.
SELECT DISTINCT CASE $attribute WHEN 'category' THEN category WHEN 'supercategory' THEN supercategory
        ELSE json_extract_string(attributes, $path) END AS label
FROM annotations WHERE mask_rle IS NOT NULL AND NOT is_crowd AND label IS NOT NULL
ORDER BY label
