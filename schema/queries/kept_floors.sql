-- The weakest row of each feature that has as many rows as are kept; of equal ones that of the highest image.
SELECT feature_id, weakest.v AS value, -weakest.i AS image_id
FROM (
    SELECT feature_id, min(struct_pack(v := value, i := -image_id)) AS weakest
    FROM activations GROUP BY feature_id HAVING count(*) >= $keep
);
