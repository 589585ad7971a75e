-- One row for each image, dimension and rater that are asked for; both as positions in the lists of names.
-- Where a rater rated an image several times, the mean.
SELECT
    image_id,
    list_position($dimensions, dimension)::INTEGER - 1 AS dimension,
    list_position($raters, rater)::INTEGER - 1 AS rater,
    avg(value) AS value
FROM ratings
WHERE dimension IN (SELECT unnest($dimensions)) AND rater IN (SELECT unnest($raters))
GROUP BY ALL
ORDER BY dimension, image_id, rater
