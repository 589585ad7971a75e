-- Images by exact path, by the end of a path after a slash, or by SHA-256. The exact path wins.
WITH fitting AS (
    SELECT image_id, path, path = $name AS exact FROM image_paths
    WHERE path = $name OR suffix(path, '/' || $name)
    UNION ALL
    SELECT image_id, path, true FROM images WHERE sha256 = lower($name)
)
SELECT image_id, min(path) AS path FROM fitting
WHERE exact OR NOT (SELECT coalesce(bool_or(exact), false) FROM fitting)
GROUP BY image_id ORDER BY image_id;
