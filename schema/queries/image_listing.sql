-- Every image with the path it was first seen under; image_id is dense, so a row's number is its id.
SELECT image_id, path, width, height, format, brightness, saturation, edge_energy, sha256
FROM images ORDER BY image_id;
