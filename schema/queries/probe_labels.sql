-- What each image is: its labels of an attribute, or, where no label has that name, what is annotated on it.
WITH labelled AS (
    SELECT DISTINCT image_id, value FROM image_labels WHERE attribute = $attribute
), annotated AS (
    SELECT DISTINCT image_id,
        CASE $attribute WHEN 'category' THEN category WHEN 'supercategory' THEN supercategory END AS value
    FROM annotations WHERE NOT is_crowd
)
FROM labelled
UNION ALL
SELECT image_id, value FROM annotated WHERE value IS NOT NULL AND NOT EXISTS (FROM labelled)
ORDER BY image_id, value
