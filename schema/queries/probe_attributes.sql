-- What images can be told apart by: attributes of labels, and the annotations' categories. Several values each.
SELECT attribute, count(DISTINCT image_id) AS n_images, count(DISTINCT value) AS n_values FROM (
    SELECT image_id, attribute, value FROM image_labels
    UNION ALL SELECT image_id, 'category', category FROM annotations WHERE NOT is_crowd
    UNION ALL SELECT image_id, 'supercategory', supercategory FROM annotations WHERE NOT is_crowd
) WHERE value IS NOT NULL AND attribute <> 'split'
GROUP BY attribute HAVING n_values > 1
ORDER BY attribute <> 'class', attribute <> 'category', n_images DESC, attribute
