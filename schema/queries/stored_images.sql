-- Every image with all places where its bytes may be, the one it was first seen under first. An image whose only
-- file has become another picture has no place left: it is listed all the same, and fails with that reason.
-- $image_ids is a list, or NULL for all.
SELECT image_id, sha256,
       list({p: paths.path, c: container, o: byte_offset, n: paths.byte_count, k: cached}
            ORDER BY paths.path = images.path DESC, paths.path) FILTER (WHERE paths.path IS NOT NULL) AS places
FROM images LEFT JOIN image_paths AS paths USING (image_id)
WHERE $image_ids::INTEGER[] IS NULL OR list_contains($image_ids::INTEGER[], image_id)
GROUP BY image_id, sha256 ORDER BY image_id;
