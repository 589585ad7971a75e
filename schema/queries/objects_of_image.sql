-- Annotated objects of one image by category.
SELECT category, count(*) AS n FROM annotations WHERE image_id = $image GROUP BY category ORDER BY n DESC, category;
