-- What raters said of one image, dimension by dimension.
SELECT dimension, avg(value) AS mean, count(*) AS n, min(value) AS low, max(value) AS high
FROM ratings WHERE image_id = $image GROUP BY dimension ORDER BY dimension;
