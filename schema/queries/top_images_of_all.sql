-- The k strongest images of every feature in one pass; ties go to the lower image.
SELECT feature_id, top.i * -1 AS image_id, top.v AS value
FROM (
    SELECT feature_id, unnest(max(struct_pack(v := value, i := -image_id), $k)) AS top
    FROM activations GROUP BY feature_id
)
ORDER BY feature_id, value DESC, image_id;
